"""Texts to pre-train on, as they lie on disk: .jsonl with {"text"} a line, or .txt with one text a file. Read one text at a time, so
the whole may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.examples import ExampleError
from training.data.order import seed_of

LARGEST_TEXT_BYTES = 256 << 20  # of one .txt: it is read as a whole
SEED_VALUES = 1 << 63


def text_files(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and those in folders, in an order that depends on their names alone.

    Raises:
        ExampleError: a path is neither, or there is no file at all.
    """
    found: list[Path] = []
    for path in paths:
        inside = [file for file in path.rglob("*") if file.suffix in (".jsonl", ".txt")] if path.is_dir() else [path]
        found += sorted(inside)
    for file in found:
        if file.suffix not in (".jsonl", ".txt") or not file.is_file():
            raise ExampleError(f"{file.name}: not a .jsonl or .txt file")
    if not found:
        raise ExampleError(f"{', '.join(path.name for path in paths)}: no .jsonl or .txt file")
    return found


def read_texts_of(file: Path) -> Iterator[str]:
    """Its texts in order.

    Raises:
        ExampleError: a line is not {"text": str}, or a text is empty; names file and line, never the content.
    """
    if file.suffix == ".txt":
        if (size := file.stat().st_size) > LARGEST_TEXT_BYTES:
            raise ExampleError(f"{file.name}: {size} bytes, one text may have {LARGEST_TEXT_BYTES}; make it .jsonl")
        yield _checked(_decoded(file.read_bytes(), file.name), file.name)
        return
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{file.name} line {number}"
            try:
                row = json.loads(_decoded(line, place))
            except json.JSONDecodeError as error:
                raise ExampleError(f"{place}: not JSON") from error
            yield _checked(row.get("text") if isinstance(row, dict) else None, place)


def is_held_out(text: str, fraction: float, seed: int) -> bool:
    """By the hash of the text alone: the same text is on the same side wherever it stands, and however often."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return seed_of(seed, "held out", digest) < fraction * SEED_VALUES


def _decoded(data: bytes, place: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ExampleError(f"{place}: not UTF-8") from error


def _checked(text: object, place: str) -> str:
    if not isinstance(text, str) or not text:
        raise ExampleError(f"{place}: text: must be text and not empty")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ExampleError(f"{place}: text: holds half a surrogate pair") from error
    return text
