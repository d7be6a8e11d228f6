"""Checks of output paths before long work, and one-line descriptions of file system errors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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


@contextmanager
def no_empty_folders(path: Path) -> Iterator[None]:
    """Remove `path` and folders above it that the block made and left empty, if the block fails."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        yield
    except Exception:
        for folder in new:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        raise


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
