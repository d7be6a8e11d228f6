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
    path = Path(error.filename).absolute()
    writes = False
    for output in (output.absolute() for output in outputs):
        # The error may name a file inside the output, a folder above it, or a temporary name.
        related = path == output or output in path.parents or path in output.parents
        writes |= related or path.parent / path.stem == output.parent / output.stem
    return f"{error.filename}: cannot be {'written' if writes else 'read'} ({error.strerror})"
