"""Files of JSON lines: one function appends, one reads.

A crash or a full disk may leave an incomplete last line. The next append ends this line instead of
removing it, so that no byte of a log is ever taken back. Readers leave out lines that are no JSON
object: nothing in such a line was acknowledged.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from durable_files.files import make_directory, sync_directory


def append_lines(path: Path, rows: Iterable[Mapping[str, Any]], *, sync: bool = True) -> None:
    """Append rows, one a line, and create file and folder if they are missing.

    Args:
        rows: without rows, the lines that an earlier process may have left unsynced are synced.
        sync: make the rows durable. False is for progress, which no one relies on after power loss.

    Raises:
        OSError: the rows may be in the file in part, and are not acknowledged.
    """
    # Half a surrogate pair has no UTF-8; its escape is valid JSON.
    lines = [json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") for row in rows]
    make_directory(path.parent)
    with path.open("a+b") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if lines and file.read(1) not in (b"", b"\n"):
            lines.insert(0, b"")
        file.write(b"".join(line + b"\n" for line in lines))
        file.flush()
        if sync:
            os.fsync(file.fileno())
    if sync:
        sync_directory(path.parent)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file in order, none if it is missing."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    rows, left_out = parse_lines(data), _unreadable(data)
    if left_out:
        print(f"{path}: {left_out} unreadable lines are left out", file=sys.stderr)
    return rows


def parse_lines(data: bytes) -> list[dict[str, Any]]:
    """Return the rows of some lines; lines that are no JSON object are left out."""
    return [row for row in map(_row, data.split(b"\n")) if row is not None]


def _unreadable(data: bytes) -> int:
    # The last line may be in the process of being written.
    return sum(bool(line) and _row(line) is None for line in data.split(b"\n")[:-1])


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
