"""Files with generated secrets in a state folder: keys, passwords and ids.

A secret is created once and is readable by its owner only.
"""

import secrets
from collections.abc import Callable
from pathlib import Path


def read_or_create(file: Path, make: Callable[[], str] = lambda: secrets.token_hex(32)) -> str:
    """Return the text of a file; create the file from `make` if missing."""
    if not file.exists():
        partial = file.with_name(f"{file.name}.partial")
        partial.touch(mode=0o600)
        partial.write_text(make())
        partial.replace(file)
    return file.read_text()
