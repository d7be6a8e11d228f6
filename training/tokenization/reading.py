"""Texts from plain files: .txt in blocks that end with a line, .jsonl with one {"text"} a line. Read as they are asked for, never all.

Nothing is changed: line ends, spaces and byte order marks are part of the text.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.order import seed_of

BLOCK_BYTES = 4096  # small, so that a page of text already has parts to hold out
ENDINGS = (".txt", ".jsonl")


class TextError(ValueError):
    """A text cannot be read; the message names the file and the place or the field, never the content."""


class TextFiles:
    """The texts of some files, in their order. Each iteration reads them anew; `read_bytes` says how far the present one is.

    Raises:
        TextError: at once for a file that is missing, empty or of another kind; while reading for one that is not UTF-8, and for
            a line without text.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        for path in self.paths:
            if path.suffix not in ENDINGS:
                raise TextError(f"texts: {path.name} is not one of {', '.join(ENDINGS)}")
            if not path.is_file():
                raise TextError(f"texts: {path.name} is missing")
            if path.stat().st_size == 0:
                raise TextError(f"texts: {path.name} is empty")
        self.total_bytes = sum(path.stat().st_size for path in self.paths)
        self.read_bytes = 0

    def __iter__(self) -> Iterator[str]:
        self.read_bytes = 0
        for path in self.paths:
            for text, size in _lines(path) if path.suffix == ".jsonl" else _blocks(path):
                self.read_bytes += size
                yield text


def is_held_out(text: str, share: float, seed: int) -> bool:
    """Decided by the text itself: one that stands twice is never on both sides."""
    return seed_of(seed, "held out", text) < share * (1 << 63)


def check_unicode(text: str, name: str) -> str:
    """The text, if it can be written as UTF-8.

    Raises:
        TextError: it holds half of a surrogate pair, as "\\ud800" in JSON or a broken argument of a command gives.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TextError(f"{name}: half a surrogate pair at character {error.start}, which is no text") from error
    return text


def _blocks(path: Path) -> Iterator[tuple[str, int]]:
    """Text and bytes of each block. A line of any length may be cut, a character never."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    place = 0
    with path.open("rb") as opened:
        while block := opened.read(BLOCK_BYTES) + opened.readline(BLOCK_BYTES):
            kept = len(decoder.getstate()[0])
            try:
                text = decoder.decode(block, final=len(opened.peek(1)) == 0)
            except UnicodeDecodeError as error:
                raise TextError(f"texts: {path.name} is not UTF-8 at byte {place - kept + error.start}") from error
            place += len(block)
            if text:
                yield text, len(block)


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    with path.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            where = f"{path.name} line {number}"
            try:
                row = json.loads(line)
            except UnicodeDecodeError as error:
                raise TextError(f"{where}: not UTF-8 at byte {error.start} of the line") from error
            except json.JSONDecodeError as error:
                raise TextError(f"{where}: not JSON") from error
            text = row.get("text") if isinstance(row, dict) else None
            if not isinstance(text, str) or not text:
                raise TextError(f"{where}: text: must be text and not empty")
            yield check_unicode(text, f"{where}: text"), len(line)
