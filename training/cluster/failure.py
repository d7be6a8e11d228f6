"""failure.txt: why a stage ended without an output, for its page. It goes when the stage is begun
again; a stop is no failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FAILURE = "failure.txt"


@contextmanager
def failure_kept(directory: Path) -> Iterator[None]:
    """Note what the block raises. Errors that are no refusal of ours say their kind too."""
    path = directory / FAILURE
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        path.write_text(
            str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        )
        raise


def read_failure(directory: Path) -> str:
    """Of the last time that it was begun; "" where it did not fail."""
    path = directory / FAILURE
    return path.read_text() if path.exists() else ""
