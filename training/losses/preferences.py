"""Losses of preferences: reward model (Bradley-Terry and margin ranking), DPO and KTO.

Each loss is a sum divided by a count of the caller. The count covers the whole batch, over all
ranks and microbatches, so the result is never a mean of means.

Shapes: B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bradley_terry(
    chosen_B: Tensor,
    rejected_B: Tensor,
    margin_B: Tensor,
    tie_B: Tensor,
    pairs: int,
    weight_B: Tensor | float = 1.0,
) -> Tensor:
    """Return -log sigmoid(chosen - rejected - margin) (Bradley and Terry 1952), weighted by pair.

    The margin is that of Llama 2 (arXiv 2307.09288). A tie is cross-entropy with the label 0.5.
    """
    gap_B = chosen_B - rejected_B
    loss_B = by_order(-F.logsigmoid(gap_B - margin_B), -F.logsigmoid(-gap_B - margin_B), tie_B)
    return (loss_B * weight_B).sum() / pairs


def margin_ranking(
    chosen_B: Tensor,
    rejected_B: Tensor,
    margin_B: Tensor,
    tie_B: Tensor,
    pairs: int,
    weight_B: Tensor | float = 1.0,
) -> Tensor:
    """Return max(0, margin - (chosen - rejected)), weighted by pair.

    A pair without a margin gets margin 1, as it would have no gradient otherwise. A tie pulls
    scores together that are further apart than the margin, with half the weight.
    """
    wanted_B, gap_B = (
        torch.where(margin_B > 0, margin_B, torch.ones_like(margin_B)),
        chosen_B - rejected_B,
    )
    loss_B = by_order((wanted_B - gap_B).clamp(min=0), (wanted_B + gap_B).clamp(min=0), tie_B)
    return (loss_B * weight_B).sum() / pairs


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


def dpo(
    chosen_B: Tensor,
    rejected_B: Tensor,
    margin_B: Tensor,
    beta: float,
    label_smoothing: float,
    pairs: int,
    weight_B: Tensor | float = 1.0,
) -> Tensor:
    """Return the DPO loss (arXiv 2305.18290, equation 7) of log-ratios to the reference.

    -log sigmoid(beta (chosen - rejected) - margin), with the margin of ODPO (arXiv 2402.10571).

    Args:
        label_smoothing: expected fraction e of flipped labels. The loss is weighted by 1 - e, and
            its mirror image by e (conservative DPO, equation 3 of arXiv 2403.00409).
        weight_B: factor on the loss of each pair.
    """
    gap_B = beta * (chosen_B - rejected_B) - margin_B
    mirrored_B = beta * (rejected_B - chosen_B) + margin_B
    right, flipped = 1 - label_smoothing, label_smoothing
    loss_B = -(right * F.logsigmoid(gap_B) + flipped * F.logsigmoid(mirrored_B))
    return (loss_B * weight_B).sum() / pairs


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
