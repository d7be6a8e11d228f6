"""Where a command writes: tried before the work whose result would be lost. A refusal of the file
system is told in one line.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path


def check_writable(path: Path) -> None:
    """Leaves nothing behind, and makes no folder.

    Raises:
        OSError: nothing can be written at the path, which is its filename. Rights alone would not
            tell: root has all, and /proc takes none.
    """
    there = path.absolute()
    folder = there if there.is_dir() else next(above for above in there.parents if above.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def describe_os_error(error: OSError, outputs: Sequence[Path]) -> str:
    """The path, what cannot be done, and why.

    Args:
        outputs: where the command writes; what lies elsewhere it only reads.
    """
    path = Path(error.filename)
    writes = any(_is_of(path.absolute(), output.absolute()) for output in outputs)
    return f"{error.filename}: cannot be {'written' if writes else 'read'} ({error.strerror})"


def _is_of(path: Path, output: Path) -> bool:
    """Inside it, beside it under a passing name, or a folder that is made for it."""
    if path == output or output in path.parents or path in output.parents:
        return True
    return path.parent / path.stem == output.parent / output.stem
