"""Output of generated pages: write, or compare with `--check`."""

import sys
from pathlib import Path


def write_or_compare(page: Path, text: str, complaint: str) -> None:
    """Write the page, or compare with `--check`.

    Raises:
        SystemExit: the page is missing or differs; the message is `complaint`.
    """
    if "--check" not in sys.argv[1:]:
        page.write_text(text)
    elif not page.exists() or page.read_text() != text:
        sys.exit(complaint)
