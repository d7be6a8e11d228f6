"""Conversion of token batches to text.

End tokens have no text, stop strings end the text, and log-probs stay with their tokens.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from services.predictor.engine.generation import TokenBatch
from services.predictor.text.codec import TextCodec
from services.predictor.text.stops import StopStrings

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
