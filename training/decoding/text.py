"""Text of a row while it grows: what may be shown already, and whether a stop string has come.

Bytes that are half a character wait for the other half, and what may be the beginning of a stop
string for what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.decoding.rows import DecodingError, Ends

MAX_STOPS = 4  # as services/generator/presets.py, and so MAX_STOP_CHARACTERS
MAX_STOP_CHARACTERS = 64
UNFINISHED = "\ufffd"  # what a decoder writes for half a character

Decode = Callable[[Sequence[int]], str]


class GrowingText:
    """One row. Decodes a few tokens at a time: what a token reads as may depend on the one before
    it, and on no earlier one.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._ids: list[int] = []
        self._context, self._read = 0, 0  # ids that are decoded along, ids that were read
        self._held = ""
        self.text = ""  # what was shown
        self.stopped = False

    def feed(self, token: int) -> str:
        """What can be shown now, often nothing. A stop string is never shown, nor what follows it."""
        self._ids.append(token)
        before = self._decode(self._ids[self._context : self._read])
        now = self._decode(self._ids[self._context :])
        if now.endswith(UNFINISHED) or len(now) <= len(before):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return self._show(now[len(before) :])

    def finish(self) -> str:
        """What was held back and is no stop string after all; nothing where one has come."""
        if self.stopped:
            return ""
        before = self._decode(self._ids[self._context : self._read])
        shown = self._show(self._decode(self._ids[self._context :])[len(before) :])
        self.text += self._held
        return shown + (self._held if not self.stopped else "")

    def _show(self, new: str) -> str:
        waiting = self._held + new
        places = [place for stop in self._stops if (place := waiting.find(stop)) >= 0]
        if places:
            self.stopped, self._held, shown = True, "", waiting[: min(places)]
        else:
            held = max((_begun(waiting, stop) for stop in self._stops), default=0)
            shown, self._held = waiting[: len(waiting) - held], waiting[len(waiting) - held :]
        self.text += shown
        return shown


def stop_at_text(
    texts: Sequence[GrowingText], ids_end: Ends, show: Callable[[int, str], None] | None = None
) -> Ends:
    """A row ends where its text has come to a stop string, or where `ids_end` says so. A token that
    ends it is not read as text.

    Args:
        texts: one a row.
        show: given (row, text) when there is something to show.
    """

    def ends(token_B: Tensor, real_B: Tensor) -> Tensor:
        ended_B = ids_end(token_B, real_B)
        for row in (real_B & ~ended_B).nonzero().flatten().tolist():
            shown = texts[row].feed(int(token_B[row]))
            if shown and show is not None:
                show(row, shown)
        stopped = torch.tensor([text.stopped for text in texts], device=token_B.device)
        return ended_B | stopped

    return ends


def check_stops(stops: Sequence[str]) -> None:
    """Raises DecodingError: too many, or one too long or empty."""
    if len(stops) > MAX_STOPS:
        raise DecodingError(
            f"stop: {len(stops)} texts, at most {MAX_STOPS}",
            field="stop",
            reason="TOO_LARGE",
            limit=f"at most {MAX_STOPS}",
        )
    for stop in stops:
        if not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            raise DecodingError(
                f"stop: a text of {len(stop)} characters, 1 to {MAX_STOP_CHARACTERS} each",
                field="stop",
                reason="OUT_OF_RANGE",
                limit=f"1 to {MAX_STOP_CHARACTERS}",
            )


def _begun(text: str, stop: str) -> int:
    """Characters at the end of the text that the stop string begins with."""
    return next(
        (
            size
            for size in range(min(len(text), len(stop) - 1), 0, -1)
            if stop.startswith(text[-size:])
        ),
        0,
    )
