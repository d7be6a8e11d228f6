"""What a verifier says of one response. Only `right` is worth anything, and why it is not right is
never lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.errors import DetailedError


class Outcome(StrEnum):
    """How a verification ended. All but the last are about the response; the last is about the
    verifier.
    """

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    OUT_OF_TIME = "out_of_time"
    OUT_OF_MEMORY = "out_of_memory"
    VERIFIER_FAILED = "verifier_failed"


@dataclass(frozen=True)
class Verdict:
    """reason: for people who read reports; it names no expected value, so that it may stand in a
    log.
    """

    outcome: Outcome
    reason: str = ""

    @property
    def reward(self) -> float:
        """1 or 0. No share for tests that passed: a constant passes some of them."""
        return float(self.outcome is Outcome.RIGHT)


class VerificationError(DetailedError):
    """The verifier itself does not work here or fails too often; the text says why and what to do.
    Never worth a reward of 0.
    """

    reason = "VERIFICATION_FAILED"
