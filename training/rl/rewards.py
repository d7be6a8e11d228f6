"""Conversion of a score per response to a reward per token, and the weight of its KL penalty.

The weight (beta) is fixed, or adapted to a target (Ziegler et al., arXiv 1909.08593).

Shapes: B batch, R response tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.errors import ConfigError
from training.losses.policy import k1
from training.model.reward import last_real_column
from training.runtime.ranges import Count, Fraction, Limit, NonNegative, Positive, check_ranges

MAX_RELATIVE_ERROR = 0.2  # one update moves beta by at most 20 % of samples / horizon


@dataclass(frozen=True)
class RewardShape:
    """Settings for rewards from scores and KL, and for advantages from rewards.

    Attributes:
        missing_eos_penalty: subtracted from the score of a response that did not end by itself, at
            least 0
        score_clip: normalised scores are clipped to plus and minus this, above 0
        discount: discount factor of rewards per token (gamma), in [0, 1]
        gae_lambda: 0: use the next value of the critic, 1: use the observed rewards; in [0, 1]
    """

    missing_eos_penalty: NonNegative = 1.0
    score_clip: Limit = 5.0
    discount: Fraction = 1.0
    gae_lambda: Fraction = 0.95

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class KlConfig:
    """Weight of the KL penalty (beta), and the KL that it is adapted to, if any.

    Attributes:
        initial: what a nat of KL to the reference costs in reward (beta), at least 0
        target_nats: KL per response that beta is adapted to, above 0; none: beta is fixed
        horizon_samples: responses over which beta is adapted, at least 1; more: slower
    """

    initial: NonNegative = 0.05
    target_nats: Positive | None = None
    horizon_samples: Count = 2000

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.target_nats is not None and self.initial == 0:
            raise ConfigError(
                "initial: beta stays 0 if it starts at 0, so target_nats has no effect",
                field="initial",
                reason="CONFLICT",
            )


def response_scores(
    scores_B: Tensor, ended_B: Tensor, missing_eos_penalty: float, clip: float
) -> Tensor:
    """Return clipped normalised scores, minus a penalty for responses without an end.

    See the N+ details (arXiv 2403.17031).
    """
    return scores_B.clamp(-clip, clip) - missing_eos_penalty * (~ended_B).float()


def overlong_penalty(mask_BR: Tensor, max_tokens: int, soft_tokens: int) -> Tensor:
    """Return 0 up to max_tokens - soft_tokens, then a linear rise to 1 at max_tokens, [B].

    See DAPO (arXiv 2503.14476, equation 13).
    """
    if soft_tokens == 0:
        return torch.zeros(mask_BR.shape[0], device=mask_BR.device)
    over_B = mask_BR.sum(dim=1) - (max_tokens - soft_tokens)
    return over_B.clamp(0, soft_tokens) / soft_tokens


def token_rewards(
    scores_B: Tensor, log_probs_BR: Tensor, reference_BR: Tensor, mask_BR: Tensor, beta: float
) -> Tensor:
    """Return -beta (log p - log p_ref) per real token, plus the score on the last, [B, R].

    Masked tokens get 0.
    """
    rewards_BR = -beta * k1(log_probs_BR, reference_BR) * mask_BR
    rows_B = torch.arange(mask_BR.shape[0], device=mask_BR.device)
    rewards_BR[rows_B, last_real_column(mask_BR)] += scores_B
    return rewards_BR


def sequence_kl(log_probs_BR: Tensor, reference_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Return the KL of each response to the reference in nats, estimated by k1, [B]."""
    return (k1(log_probs_BR, reference_BR) * mask_BR).sum(1)


def next_beta(beta: float, measured_nats: float, samples: int, config: KlConfig) -> float:
    """Return beta after an update with `samples` responses.

    beta (1 + clip(KL / target - 1, +-0.2) samples / horizon)
    """
    if config.target_nats is None:
        return beta
    error = measured_nats / config.target_nats - 1
    error = min(MAX_RELATIVE_ERROR, max(-MAX_RELATIVE_ERROR, error))
    return beta * (1 + error * samples / config.horizon_samples)
