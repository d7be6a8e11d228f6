"""Conversion of token batches to text.

End tokens have no text, stop strings end the text, and log-probs stay with their tokens.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from services.predictor.engine.generation import TokenBatch
from services.predictor.text.codec import TextCodec

REPLACEMENT = "�"


class IncrementalDetokeniser:
    """Incremental decoder of one growing text, in complete characters.

    A token may hold part of a character, and its text depends on the previous tokens
    (SentencePiece's leading space). Each step therefore decodes a short window with and without the
    new tokens, and returns the difference once complete. text-generation-inference and vLLM use the
    same scheme.
    """

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._window: list[int] = []  # recent ids, from the last returned text on
        self._emitted = 0  # number of ids in the window with returned text

    def add(self, token: int) -> str:
        """Return the new text of a token; empty while a character is incomplete."""
        self._window.append(token)
        before = self._codec.decode(self._window[: self._emitted])
        after = self._codec.decode(self._window)
        if len(after) <= len(before) or after.endswith(REPLACEMENT):
            return ""
        self._window = self._window[self._emitted :]
        self._emitted = len(self._window)
        return after[len(before) :]


class StopStrings:
    """Detector of stop strings in one growing text, across token boundaries.

    Text that may start a stop string is held back until the next text decides.
    """

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


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token with its text and log-prob.

    The text may be part of a character. A token with `ends` set is not part of the answer's text.
    """

    id: int
    text: str
    log_prob: float
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """Text and tokens of a batch; `tokens` is empty unless log-probs were requested."""

    text: str
    tokens: tuple[ScoredToken, ...]


class Transcript:
    """Text of one generation as it grows."""

    def __init__(self, codec: TextCodec, stops: Sequence[str], end_ids: Collection[int]) -> None:
        self._codec = codec
        self._detokeniser = IncrementalDetokeniser(codec)
        self._stops = StopStrings(stops)
        self._end_ids = frozenset(end_ids)
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        """Return True after a stop string; later text is dropped."""
        return self._stops.hit

    def add(self, batch: TokenBatch) -> Piece:
        """Return text that is final; counting stops at the token that completes a stop string."""
        text = ""
        scored: list[ScoredToken] = []
        for index, token in enumerate(batch.ids):
            if self.stopped:
                break
            self.tokens += 1
            ends = token in self._end_ids
            if not ends:
                text += self._stops.feed(self._detokeniser.add(token))
            if batch.log_probs:
                scored.append(
                    ScoredToken(
                        token, self._codec.decode([token], False), batch.log_probs[index], ends
                    )
                )
        return Piece(text, tuple(scored))

    def end(self) -> Piece:
        """Return text held back for a possible stop string.

        An incomplete character at the end is dropped.
        """
        return Piece("" if self.stopped else self._stops.flush(), ())
