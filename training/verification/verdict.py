"""Verdict of a verifier on one response; only `right` has a reward."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.errors import DetailedError


class Outcome(StrEnum):
    """Outcome of a verification. VERIFIER_FAILED concerns the verifier, all others the response."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSABLE = "unparsable"
    OUT_OF_TIME = "out_of_time"
    OUT_OF_MEMORY = "out_of_memory"
    VERIFIER_FAILED = "verifier_failed"


@dataclass(frozen=True)
class Verdict:
    """Outcome with a reason for reports. Reasons contain no expected values and may be logged."""

    outcome: Outcome
    reason: str = ""

    @property
    def reward(self) -> float:
        """Reward of 1 or 0. Partial rewards for passed tests would favour constants."""
        return float(self.outcome is Outcome.RIGHT)


class VerificationError(DetailedError):
    """Error for a verifier that is unavailable or fails too often; never a reward of 0."""

    reason = "VERIFICATION_FAILED"
