"""Token ids and log-probs joined from the chunks of a stream; dropped if any chunk is missing.

With a gap, the sample would describe another answer.
"""

import math
from collections.abc import Sequence

from services.contracts.chat import Sample
from services.contracts.limits import MAX_REPLY_TOKENS

MAX_ID = 2**32 - 1
# Rounding may leave the log-prob of a certain token slightly above 0. vLLM sends -9999 for a
# missing value.
ROUNDING, NO_LOG_PROB = 1e-4, -9999.0


class SampleParts:
    """Collects token ids and log-probs from chunks; empty if the server sends none."""

    def __init__(self) -> None:
        self._ids: list[int] = []
        self._log_probs: list[float] = []

    def add(self, token_ids: Sequence[int], log_probs: Sequence[float]) -> None:
        """Add the tokens of one chunk; different lengths make the sample invalid."""
        self._ids += token_ids
        self._log_probs += log_probs

    def joined(self, completion_tokens: int) -> Sample | None:
        """Return the complete sample, or None if a token or a log-prob is missing.

        Args:
            completion_tokens: number of tokens that the server reported for the answer.
        """
        if (
            not len(self._ids) == len(self._log_probs) == completion_tokens
            or not 1 <= completion_tokens <= MAX_REPLY_TOKENS
        ):
            return None
        if not all(0 <= token <= MAX_ID for token in self._ids) or not all(
            map(_is_log_prob, self._log_probs)
        ):
            return None
        return Sample(tuple(self._ids), tuple(min(value, 0.0) for value in self._log_probs))


def _is_log_prob(value: float) -> bool:
    return math.isfinite(value) and NO_LOG_PROB < value < ROUNDING
