"""Losses of SFT, reward model, DPO, KTO, PPO and GRPO.

Each loss is a sum divided by a count of the caller. The count covers the whole batch, over all
ranks and microbatches, so the result is never a mean of means.

Shapes: B batch, R response tokens, N selected tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from torch.nn import functional as F

from training.optim.ranks import Ranks

# exp() of larger values overflows the surrogate before clipping has an effect
LOG_RATIO_LIMIT = 20.0


def token_log_probs(logits_NV: Tensor, targets_N: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the log-probability of each target at this sampling temperature, [N]."""
    scaled_NV = logits_NV.float() / temperature
    return scaled_NV.gather(-1, targets_N[..., None]).squeeze(-1) - scaled_NV.logsumexp(-1)


@torch.no_grad()
def token_entropy(logits_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """Return the entropy of each position's distribution in nats, [N], without gradient.

    In-place operations avoid three more tensors of [N, V] next to a stored graph.
    """
    log_probs_NV = (logits_NV.float() / temperature).log_softmax(-1)
    return -log_probs_NV.exp().mul_(log_probs_NV).sum(-1)


def weighted_cross_entropy(log_probs_N: Tensor, weights_N: Tensor, weight_total: float) -> Tensor:
    """Return the SFT loss: the sum of weight * -log p over the global sum of weights."""
    return -(log_probs_N * weights_N).sum() / weight_total


def bradley_terry(
    chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor, tie_B: Tensor, pairs: int
) -> Tensor:
    """Return -log sigmoid(chosen - rejected - margin) (Bradley and Terry 1952).

    The margin is that of Llama 2 (arXiv 2307.09288). A tie is cross-entropy with the label 0.5.
    """
    gap_B = chosen_B - rejected_B
    return (
        by_order(-F.logsigmoid(gap_B - margin_B), -F.logsigmoid(-gap_B - margin_B), tie_B).sum()
        / pairs
    )


def margin_ranking(
    chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor, tie_B: Tensor, pairs: int
) -> Tensor:
    """Return max(0, margin - (chosen - rejected)).

    A pair without a margin gets margin 1, as it would have no gradient otherwise. A tie pulls
    scores together that are further apart than the margin, with half the weight.
    """
    wanted_B, gap_B = (
        torch.where(margin_B > 0, margin_B, torch.ones_like(margin_B)),
        chosen_B - rejected_B,
    )
    return (
        by_order((wanted_B - gap_B).clamp(min=0), (wanted_B + gap_B).clamp(min=0), tie_B).sum()
        / pairs
    )


def by_order(won_B: Tensor, lost_B: Tensor, tie_B: Tensor) -> Tensor:
    """Return the loss of a pair's order; for a tie the mean of both orders, [B].

    The label of a tie is uniform (Christiano et al. 2017, arXiv 1706.03741, section 2.2).
    """
    return torch.where(tie_B, (won_B + lost_B) / 2, won_B)


def centring(chosen_B: Tensor, rejected_B: Tensor, pairs: int) -> Tensor:
    """Return (chosen + rejected)^2, which keeps scores near 0.

    Differences of scores are unaffected (arXiv 2312.09244).
    """
    return (chosen_B + rejected_B).square().sum() / pairs


@dataclass(frozen=True)
class Clip:
    """Range of the ratio around 1, outside of which tokens have no gradient.

    DAPO's clip-higher is (0.2, 0.28), arXiv 2503.14476.
    """

    low: float = 0.2
    high: float = 0.2


class Normalisation(StrEnum):
    """Divisor of a minibatch's loss.

    token: number of all tokens (DAPO). sequence: tokens of each response, then the number of
    responses (GRPO). constant: a given number times the number of responses, so the length of a
    response has no influence (Dr. GRPO).
    """

    TOKEN = "token"  # noqa: S105
    SEQUENCE = "sequence"
    CONSTANT = "constant"


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
    return PolicyLoss(
        loss=-(torch.min(plain_BR, clipped_BR) * weights_BR).sum(),
        clipped_tokens=((clipped_BR < plain_BR) & counted_BR).sum().detach(),
        approximate_kl_sum=(k3(old_log_probs_BR, log_probs_BR) * counted_BR).sum().detach(),
    )


def value_loss(
    values_BR: Tensor, old_values_BR: Tensor, returns_BR: Tensor, weights_BR: Tensor, clip: float
) -> Tensor:
    """Return 0.5 max((v - R)^2, (clip(v) - R)^2), clipped like the policy."""
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


def dpo(
    chosen_B: Tensor,
    rejected_B: Tensor,
    margin_B: Tensor,
    beta: float,
    label_smoothing: float,
    pairs: int,
) -> Tensor:
    """Return the DPO loss (arXiv 2305.18290, equation 7) of log-ratios to the reference.

    -log sigmoid(beta (chosen - rejected) - margin), with the margin of ODPO (arXiv 2402.10571).

    Args:
        label_smoothing: expected fraction e of flipped labels. The loss is weighted by 1 - e, and
            its mirror image by e (conservative DPO, equation 3 of arXiv 2403.00409).
    """
    gap_B = beta * (chosen_B - rejected_B) - margin_B
    mirrored_B = beta * (rejected_B - chosen_B) + margin_B
    right, flipped = 1 - label_smoothing, label_smoothing
    return -(right * F.logsigmoid(gap_B) + flipped * F.logsigmoid(mirrored_B)).sum() / pairs


def kto(
    ratios_B: Tensor,
    up_B: Tensor,
    baseline: float,
    beta: float,
    weights: tuple[float, float],
    thumbs: int,
    importance_B: Tensor | None = None,
) -> Tensor:
    """Return the KTO loss (arXiv 2402.01306, equation 8).

    w_up (1 - sigmoid(beta (r - z0))) for a thumb up, w_down (1 - sigmoid(beta (z0 - r))) for a
    thumb down.

    Args:
        ratios_B: r, log-ratios of whole responses to the reference.
        up_B: True for a thumb up.
        baseline: z0. A number, because it must not have a gradient.
        weights: of a thumb up and of a thumb down.
        importance_B: additional weight of each response that another policy sampled
            (training/rl/served.py).
    """
    sign_B = torch.where(up_B, 1.0, -1.0)
    weight_B = torch.where(up_B, weights[0], weights[1]) * (
        1.0 if importance_B is None else importance_B
    )
    return (weight_B * (1 - torch.sigmoid(beta * sign_B * (ratios_B - baseline)))).sum() / thumbs
