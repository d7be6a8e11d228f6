"""Detection of stop strings across token boundaries.

Text that may start a stop string is held back until the next text decides.
"""

from collections.abc import Sequence


class StopStrings:
    """Detector for one growing text."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """Add text and return the part that cannot belong to a stop string.

        After a hit, the stop string and the text behind are dropped.
        """
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.hit = True
            return self._release(min(places), drop=True)
        # Hold back the longest end of the text that may be the start of a stop string.
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return self._release(len(self._held) - length)
        return self._release(len(self._held))

    def flush(self) -> str:
        """Return the text held back at the end of the generation."""
        return self._release(len(self._held))

    def _release(self, length: int, drop: bool = False) -> str:
        out, rest = self._held[:length], self._held[length:]
        self._held = "" if drop else rest
        return out
