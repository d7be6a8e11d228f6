"""failure.txt: the error that ended a stage without an output, for the page of the stage.

The file is removed when the stage starts again. A requested stop is not a failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FAILURE = "failure.txt"


@contextmanager
def recorded_failure(directory: Path) -> Iterator[None]:
    """Write the exception of the block to failure.txt; unexpected errors with their class."""
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
    """Return the error of the last start, or ""."""
    path = directory / FAILURE
    return path.read_text() if path.exists() else ""
