"""Losses of PPO and GRPO: clipped surrogate, value loss, and estimates of the KL.

Each loss is a sum of tokens by weight. The weights divide by counts of the whole minibatch, over
all ranks, so the result is never a mean of means.

Shapes: B batch, R response tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.losses.normalisation import Normalisation
from training.runtime.ranks import Ranks

# exp() of larger values overflows the surrogate before clipping has an effect
LOG_RATIO_LIMIT = 20.0


@dataclass(frozen=True)
class Clip:
    """Range of the ratio around 1, outside of which tokens have no gradient.

    DAPO's clip-higher is (0.2, 0.28), arXiv 2503.14476.
    """

    low: float = 0.2
    high: float = 0.2


def token_weights(
    mask_BR: Tensor,
    ranks: Ranks,
    normalisation: Normalisation = Normalisation.TOKEN,
    constant_tokens: int = 0,
) -> Tensor:
    """Return the weight of each token in the loss of a minibatch, [B, R], 0 where masked.

    Counts cover all ranks. Rows without unmasked tokens do not count as responses.
    """
    lengths_B1 = mask_BR.sum(dim=1, keepdim=True)
    # Tensors, not Python numbers, because each conversion would wait for the accelerator.
    tokens, rows = (
        ranks.sum(torch.stack((lengths_B1.sum(), (lengths_B1 > 0).sum())).float())
        .clamp(min=1)
        .unbind()
    )
    divisors = {
        Normalisation.TOKEN: tokens,
        Normalisation.SEQUENCE: lengths_B1.clamp(min=1) * rows,
        Normalisation.CONSTANT: constant_tokens * rows,
    }
    weights_BR: Tensor = mask_BR / divisors[normalisation]
    return weights_BR


@dataclass(frozen=True)
class PolicyLoss:
    """Loss with gradient, and sums for the log."""

    loss: Tensor
    clipped_tokens: Tensor
    # KL of old to new by k3, because the samples are from the old policy
    approximate_kl_sum: Tensor


def policy_loss(
    log_probs_BR: Tensor,
    old_log_probs_BR: Tensor,
    advantages_BR: Tensor,
    weights_BR: Tensor,
    clip: Clip,
) -> PolicyLoss:
    """Return PPO's clipped surrogate (arXiv 1707.06347), summed over tokens by weight.

    The weights contain mask and normalisation.
    """
    log_ratio_BR = (log_probs_BR - old_log_probs_BR).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    ratio_BR = log_ratio_BR.exp()
    plain_BR = ratio_BR * advantages_BR
    clipped_BR = ratio_BR.clamp(1 - clip.low, 1 + clip.high) * advantages_BR
    counted_BR = weights_BR > 0
    # The minimum is a pessimistic bound. A token loses its gradient only if its ratio has left the
    # range in the direction of its advantage; a ratio on the wrong side is still pulled back.
    return PolicyLoss(
        loss=-(torch.min(plain_BR, clipped_BR) * weights_BR).sum(),
        clipped_tokens=((clipped_BR < plain_BR) & counted_BR).sum().detach(),
        approximate_kl_sum=(k3(old_log_probs_BR, log_probs_BR) * counted_BR).sum().detach(),
    )


def value_loss(
    values_BR: Tensor, old_values_BR: Tensor, returns_BR: Tensor, weights_BR: Tensor, clip: float
) -> Tensor:
    """Return 0.5 max((v - R)^2, (clip(v) - R)^2), clipped like the policy."""
    # The maximum is the pessimistic choice here, as the minimum is for the policy.
    near_BR = old_values_BR + (values_BR - old_values_BR).clamp(-clip, clip)
    worse_BR = torch.max((values_BR - returns_BR).square(), (near_BR - returns_BR).square())
    return 0.5 * (worse_BR * weights_BR).sum()


def k1(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Return log_probs - reference, an unbiased estimate of KL(policy || reference).

    The samples must be from the policy. The estimate can be negative.
    """
    return log_probs - reference


def k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """Return exp(d) - 1 - d with d = reference - log_probs, an estimate of KL(policy || reference).

    The estimate is unbiased, never negative, and has less variance for similar distributions
    (Schulman 2020).
    """
    difference = (reference - log_probs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return difference.exp() - 1 - difference
