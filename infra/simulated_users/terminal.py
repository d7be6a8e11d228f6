"""What a person sees meanwhile: a bar that moves where there is a terminal, a line every five
seconds elsewhere.
"""

import sys
import time
from datetime import datetime

BAR_CELLS = 24
LINE_EVERY_SECONDS, DRAW_EVERY_SECONDS = 5.0, 0.1


def say(text: str) -> None:
    """One line with a clock."""
    print(f"{datetime.now().astimezone():%H:%M:%S} {text}", flush=True)


class Meter:
    """The progress of one thing. `end` leaves its last state on a line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._drawn = 0.0
        self._live = sys.stdout.isatty()
        self._last = ""

    def show(self, done: int, total: int, text: str) -> None:
        """How far it is; drawn not more often than anybody can read."""
        filled = BAR_CELLS * min(done, total) // max(total, 1)
        self._last = (
            f"{self._name} {'█' * filled}{'░' * (BAR_CELLS - filled)} {done:,}/{total:,}  {text}"
        )
        if time.monotonic() - self._drawn >= (
            DRAW_EVERY_SECONDS if self._live else LINE_EVERY_SECONDS
        ):
            self._drawn = time.monotonic()
            self._draw("" if self._live else "\n")

    def end(self) -> None:
        """The last state stays."""
        self._draw("\n")

    def _draw(self, end: str) -> None:
        if self._live:
            print(f"\r\033[K{self._last}", end=end, flush=True)
        elif self._last:
            say(self._last)
