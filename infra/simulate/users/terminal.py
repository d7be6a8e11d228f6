"""Progress output: a bar on a terminal, a line every five seconds otherwise."""

import sys
import time
from datetime import datetime

BAR_CELLS = 24
LINE_EVERY_SECONDS, DRAW_EVERY_SECONDS = 5.0, 0.1


def say(text: str) -> None:
    """Print a line with the time of day."""
    print(f"{datetime.now().astimezone():%H:%M:%S} {text}", flush=True)


class Meter:
    """Progress of a task. `end` prints the last state on its own line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._drawn = 0.0
        self._live = sys.stdout.isatty()
        self._last = ""

    def show(self, done: int, total: int, text: str) -> None:
        """Show the progress, at a limited rate."""
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
        """Print the last state."""
        self._draw("\n")

    def _draw(self, end: str) -> None:
        if self._live:
            print(f"\r\033[K{self._last}", end=end, flush=True)
        elif self._last:
            say(self._last)
