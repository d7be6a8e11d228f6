"""Checks of output paths before long work, and one-line descriptions of file system errors."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path


def check_writable(path: Path) -> None:
    """Check that a file can be created at the path, without creating any file or folder.

    A file is created and removed, because permissions alone do not decide: root has all of them,
    and /proc accepts no files.

    Raises:
        OSError: the path is not writable. `filename` is the path.
    """
    there = path.absolute()
    folder = there if there.is_dir() else next(above for above in there.parents if above.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def describe_os_error(error: OSError, outputs: Sequence[Path]) -> str:
    """Return the path, the failed operation and the reason.

    Args:
        outputs: paths that the command writes. All other paths are only read.
    """
    path = Path(error.filename)
    writes = any(_is_of(path.absolute(), output.absolute()) for output in outputs)
    return f"{error.filename}: cannot be {'written' if writes else 'read'} ({error.strerror})"


def _is_of(path: Path, output: Path) -> bool:
    """Return True if `path` is inside `output`, a temporary name of it, or a parent folder."""
    if path == output or output in path.parents or path in output.parents:
        return True
    return path.parent / path.stem == output.parent / output.stem
