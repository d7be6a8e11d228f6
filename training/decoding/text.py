"""Incremental text of a growing row, with stop strings.

Incomplete characters, and text that may be the start of a stop string, are held back until more
tokens arrive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.decoding.rows import StopRule

REPLACEMENT_CHARACTER = "\ufffd"  # decoders' output for an incomplete character

Decode = Callable[[Sequence[int]], str]


class IncrementalDetokenizer:
    """Incremental detokenizer of a row.

    Decodes a few tokens at a time: the text of a token may depend on the previous token only.
    """

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, tuple(stops)
        self._ids: list[int] = []
        # start of the decoded context, end of the ids already read
        self._context, self._read = 0, 0
        self._held = ""
        self.text = ""  # text released so far
        self.stopped = False

    def feed(self, token: int) -> str:
        """Add a token and return the text to release, often empty.

        Stop strings, and text after them, are never released.
        """
        # Only the previous piece is decoded again, so a token costs the same in a long text.
        self._ids.append(token)
        before = self._decode(self._ids[self._context : self._read])
        now = self._decode(self._ids[self._context :])
        # Wait for the rest of an incomplete character.
        if now.endswith(REPLACEMENT_CHARACTER) or len(now) <= len(before):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return self._show(now[len(before) :])

    def finish(self) -> str:
        """Return the text held back at the end; empty after a stop string."""
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
            # Hold back the longest suffix that is a prefix of a stop string and may become one.
            overlaps = (
                size
                for stop in self._stops
                for size in range(1, min(len(waiting), len(stop) - 1) + 1)
                if stop.startswith(waiting[-size:])
            )
            held = max(overlaps, default=0)
            shown, self._held = waiting[: len(waiting) - held], waiting[len(waiting) - held :]
        self.text += shown
        return shown


def stop_at_text(
    texts: Sequence[IncrementalDetokenizer],
    ids_end: StopRule,
    show: Callable[[int, str], None] | None = None,
) -> StopRule:
    """Return a rule that ends rows at a stop string or where `ids_end` ends them.

    Tokens that end a row through `ids_end` are not decoded.

    Args:
        texts: one per row.
        show: called with (row, text) for every released text.
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
