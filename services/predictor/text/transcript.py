"""Token batches become text: end tokens leave none, stop strings end it, log-probs stay beside what
they belong to.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from services.predictor.engine.generation import TokenBatch
from services.predictor.text.codec import TextCodec
from services.predictor.text.detokeniser import IncrementalDetokeniser
from services.predictor.text.stops import StopStrings


@dataclass(frozen=True, slots=True)
class ScoredToken:
    """A token, its own text (which may be a part of a character) and its log-prob. One that `ends`
    is no part of the answer's text.
    """

    id: int
    text: str
    log_prob: float
    ends: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """What some tokens added. `tokens` is empty unless log-probs were asked for."""

    text: str
    tokens: tuple[ScoredToken, ...]


class Transcript:
    """One generation's text as it grows."""

    def __init__(self, codec: TextCodec, stops: Sequence[str], end_ids: Collection[int]) -> None:
        self._codec = codec
        self._detokeniser = IncrementalDetokeniser(codec)
        self._stops = StopStrings(stops)
        self._end_ids = frozenset(end_ids)
        self.tokens = 0

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: what comes after is not for anybody."""
        return self._stops.hit

    def add(self, batch: TokenBatch) -> Piece:
        """Text that is certain by now. Stops counting at the token that completed a stop string."""
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
        """What was held back for a stop string that never came. Half a character at the end is
        dropped.
        """
        return Piece("" if self.stopped else self._stops.flush(), ())
