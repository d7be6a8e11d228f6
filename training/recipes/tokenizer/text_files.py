"""Streaming source of texts for tokenizer training.

A .jsonl file gives its texts, a .txt file blocks that end with a line (data/corpus.py reads such a
file as a single text). Texts are read on demand. A long pass over them is reported: not in the
first seconds, then by a line at intervals.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from training.data.corpus import TextError, read_sized, text_files

FIRST_REPORT_SECONDS, REPORT_SECONDS = 3.0, 10.0
MEGABYTE = 1_000_000
BLOCK_BYTES = 4096  # small, so that even a page of text has several blocks to hold out


class TextFiles:
    """Texts of files and folders in order; every iteration reads the files from the start.

    `read_bytes` is the progress of the current iteration.

    Raises:
        TextError: on construction, for a missing, empty or unsupported file, and if all files hold
        white space only; on iteration, for invalid UTF-8 or a line without text.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(text_files(paths))
        self.total_bytes = sum(path.stat().st_size for path in self.paths)
        self.read_bytes = 0
        if not any(text.strip() for text in self):
            names = ", ".join(path.name for path in self.paths)
            raise TextError(f"texts: only white space in {names}", field="texts", reason="EMPTY")
        self.read_bytes = 0

    def __iter__(self) -> Iterator[str]:
        self.read_bytes = 0
        for path in self.paths:
            for text, size in _blocks(path) if path.suffix == ".txt" else read_sized(path):
                self.read_bytes += size
                yield text


class ProgressReader:
    """Texts of files with progress lines on `out`.

    Args:
        doing: label of the lines.
        after: the unobservable step after reading, mentioned at the end.
    """

    def __init__(
        self,
        files: TextFiles,
        doing: str,
        after: str,
        out: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._doing, self._after = files, doing, after
        self._out, self._clock = out, clock

    def __iter__(self) -> Iterator[str]:
        started = self._clock()
        due = started + FIRST_REPORT_SECONDS
        for text in self._files:
            yield text
            if self._clock() > due:
                due = self._clock() + REPORT_SECONDS
                read, total = self._files.read_bytes / MEGABYTE, self._files.total_bytes / MEGABYTE
                self._report(f"{read:,.1f} of {total:,.1f} MB read")
        if self._after and self._clock() > started + FIRST_REPORT_SECONDS:
            self._report(f"all read, {self._after}")

    def _report(self, text: str) -> None:
        self._out.write(f"{self._doing}: {text}\n")
        self._out.flush()


def _blocks(path: Path) -> Iterator[tuple[str, int]]:
    """Yield text and bytes of each block. Long lines may be cut, characters never."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    place = 0
    with path.open("rb") as opened:
        # Extend each block to the end of its line, at most by one block.
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
