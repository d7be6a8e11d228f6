"""A page that is written from something else: written anew, or with `--check` compared and left as
it is.
"""

import sys
from pathlib import Path


def write_or_compare(page: Path, text: str, complaint: str) -> None:
    """Raises: SystemExit with the complaint, if it was to be compared and is another one or none."""
    if "--check" not in sys.argv[1:]:
        page.write_text(text)
    elif not page.exists() or page.read_text() != text:
        sys.exit(complaint)
