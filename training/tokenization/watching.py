"""How far a pass over texts is, for somebody who waits: nothing in the first seconds, then a line
now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TextIO

from training.tokenization.reading import TextFiles

PATIENCE_SECONDS, EVERY_SECONDS = 3.0, 10.0
MEGABYTE = 1_000_000


class Watched:
    """The texts of files, with lines on `out` about `doing`. `after` is what follows when all are
    read, which nobody can watch.
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
        began = self._clock()
        due = began + PATIENCE_SECONDS
        for text in self._files:
            yield text
            if self._clock() > due:
                due = self._clock() + EVERY_SECONDS
                read, total = self._files.read_bytes / MEGABYTE, self._files.total_bytes / MEGABYTE
                self._say(f"{read:,.1f} of {total:,.1f} MB read")
        if self._after and self._clock() > began + PATIENCE_SECONDS:
            self._say(f"all read, {self._after}")

    def _say(self, text: str) -> None:
        self._out.write(f"{self._doing}: {text}\n")
        self._out.flush()
