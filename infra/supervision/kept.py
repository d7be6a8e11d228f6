"""Random words of a state folder, made once and kept, readable by the owner alone: keys, passwords,
ids.
"""

import secrets
from collections.abc import Callable
from pathlib import Path


def kept(file: Path, make: Callable[[], str] = lambda: secrets.token_hex(32)) -> str:
    """What stands in the file; made if there is none."""
    if not file.exists():
        partial = file.with_name(f"{file.name}.partial")
        partial.touch(mode=0o600)
        partial.write_text(make())
        partial.replace(file)
    return file.read_text()
