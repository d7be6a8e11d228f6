"""Divisor of the losses of PPO and GRPO, a type without torch for their configuration."""

from __future__ import annotations

from enum import StrEnum


class Normalisation(StrEnum):
    """Divisor of a minibatch's loss.

    token: number of all tokens (DAPO). sequence: tokens of each response, then the number of
    responses (GRPO). constant: a given number times the number of responses, so the length of a
    response has no influence (Dr. GRPO).
    """

    TOKEN = "token"  # noqa: S105
    SEQUENCE = "sequence"
    CONSTANT = "constant"
