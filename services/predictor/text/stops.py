"""Stop strings, found across token borders. Text that may be the beginning of one is held back
until that is known.
"""

from collections.abc import Sequence


class StopStrings:
    """Watches one growing text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Take more text and give out what is certain. After a hit the rest, and the stop string
        itself, is gone.
        """
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.hit = True
            return self._release(min(places), drop=True)
        return self._release(len(self._held) - self._beginning_of_a_stop())

    def flush(self) -> str:
        """The text has ended: what was held back is no stop string after all."""
        return self._release(len(self._held))

    def _release(self, length: int, drop: bool = False) -> str:
        out, rest = self._held[:length], self._held[length:]
        self._held = "" if drop else rest
        return out

    def _beginning_of_a_stop(self) -> int:
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
