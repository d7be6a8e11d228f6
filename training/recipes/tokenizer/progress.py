"""Progress reports for a pass over texts: none in the first seconds, then a line at intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TextIO

from training.recipes.tokenizer.text_files import TextFiles

FIRST_REPORT_SECONDS, REPORT_SECONDS = 3.0, 10.0
MEGABYTE = 1_000_000


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
        self._files, self._doing, self._after, self._out, self._clock = (
            files,
            doing,
            after,
            out,
            clock,
        )

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
