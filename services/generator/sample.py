"""What the model sampled, put together from a stream's pieces: all of it or nothing. With a hole it
would be another answer's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.generator.presets import MAX_TOKENS

MAX_ID = 2**32 - 1
# Rounding may leave a certain token a hair above 0; vLLM writes -9999 where it has no number.
ROUNDING, NO_LOG_PROB = 1e-4, -9999.0


@dataclass(frozen=True)
class Sample:
    """Token ids, the end token among them, and the raw model's log-prob of each; never put into a
    log.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


class SampleParts:
    """Takes what each piece tells; a server that tells nothing leaves it empty."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._log_probs: list[float] = []

    def add(self, token_ids: Sequence[int], log_probs: Sequence[float]) -> None:
        """The tokens of one piece. If the two are not as many, the lengths will differ at the end."""
        self._ids += token_ids
        self._log_probs += log_probs

    def whole(self, completion_tokens: int) -> Sample | None:
        """The sample of an answer that the server counted as so many tokens; None if any of them is
        missing or has no log-prob.
        """
        if (
            not len(self._ids) == len(self._log_probs) == completion_tokens
            or not 1 <= completion_tokens <= MAX_TOKENS
        ):
            return None
        if not all(0 <= token <= MAX_ID for token in self._ids) or not all(
            map(_is_log_prob, self._log_probs)
        ):
            return None
        return Sample(tuple(self._ids), tuple(min(value, 0.0) for value in self._log_probs))


def _is_log_prob(value: float) -> bool:
    return math.isfinite(value) and NO_LOG_PROB < value < ROUNDING
