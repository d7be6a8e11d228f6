"""Texts to learn a tokenizer from: those of .jsonl, and of .txt blocks that end with a line
(data/corpus.py reads one as a whole). Read as they are asked for, never all.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.corpus import ENDINGS, TextError, read_lines, text_files

BLOCK_BYTES = 4096  # small, so that a page of text already has parts to hold out


class TextFiles:
    """The texts of some files, or of folders of them, in their order. Each iteration reads them
    anew; `read_bytes` says how far the present one is.

    Raises:
        TextError: at once for a file that is missing, empty or of another kind, and where all of
            them hold only white space; while reading for one that is not UTF-8, and for a line
            without text.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(
            file for path in paths for file in (text_files([path]) if path.is_dir() else [path])
        )
        for path in self.paths:
            if not path.is_file():
                raise TextError(f"texts: {path.name} is missing", field=path.name, reason="MISSING")
            if path.suffix not in ENDINGS:
                raise TextError(
                    f"texts: {path.name} is not one of {', '.join(ENDINGS)}",
                    field=path.name,
                    reason="UNSUPPORTED",
                    limit=", ".join(ENDINGS),
                )
            if path.stat().st_size == 0:
                raise TextError(f"texts: {path.name} is empty", field=path.name, reason="EMPTY")
        self.total_bytes = sum(path.stat().st_size for path in self.paths)
        self.read_bytes = 0
        if not any(text.strip() for text in self):
            names = ", ".join(path.name for path in self.paths)
            raise TextError(
                f"texts: nothing but white space in {names}", field="texts", reason="EMPTY"
            )
        self.read_bytes = 0

    def __iter__(self) -> Iterator[str]:
        self.read_bytes = 0
        for path in self.paths:
            for text, size in read_lines(path) if path.suffix == ".jsonl" else _blocks(path):
                self.read_bytes += size
                yield text


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
                raise TextError(
                    f"texts: {path.name} is not UTF-8 at byte {place - kept + error.start}",
                    field=path.name,
                    reason="NOT_UTF8",
                ) from error
            place += len(block)
            if text:
                yield text, len(block)
