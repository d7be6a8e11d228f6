"""Files and folders that options name: checks before long work, and one-line errors."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from training.errors import ConfigError


def existing_path(option: str, path: Path) -> Path:
    """Return the absolute path.

    Raises:
        ConfigError: the path does not exist.
    """
    if not path.exists():
        raise ConfigError(f"{option}: {path} does not exist", field=option, reason="MISSING")
    return path.absolute()


def existing_file(option: str, path: Path) -> Path:
    """Return the absolute path of a file.

    Raises:
        ConfigError: the path does not exist or is a folder.
    """
    if path.is_dir():
        raise ConfigError(
            f"{option}: {path} is a folder, not a file",
            field=option,
            reason="WRONG_TYPE",
            limit="a file",
        )
    return existing_path(option, path)


def read_file(option: str, path: Path) -> str:
    """Return the text of a small file, such as a key or a template.

    Raises:
        ConfigError: the file does not exist, cannot be read, is not UTF-8, or is blank.
    """
    try:
        text = existing_file(option, path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{option}: {path} cannot be read ({error.strerror})", field=option, reason="UNREADABLE"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{option}: {path} is not UTF-8", field=option, reason="NOT_UTF8"
        ) from error
    if not text.strip():
        raise ConfigError(f"{option}: {path} is empty", field=option, reason="EMPTY")
    return text


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
