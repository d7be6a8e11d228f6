"""Advantages of responses: by a critic (GAE, for PPO) or relative to a group (GRPO).

Masked tokens have no influence.

Shapes: B batch, R response tokens, P prompts, G responses to each. values_BR[:, t] is the value of
the state *before* response token t. Rows of a group are adjacent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.runtime.ranks import Ranks

GROUP_EPSILON = 1e-4  # as in TRL; scores of verifiers are 0 or 1


def gae(
    rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns (GAE, arXiv 1506.02438), [B, R] each, 0 where masked.

    delta_t = r_t + discount v_{t+1} - v_t; A_t = delta_t + discount lambda A_{t+1}; return_t = A_t
    + v_t. There is no bootstrap after the last real token.
    """
    rewards_BR, values_BR = rewards_BR * mask_BR, values_BR * mask_BR
    advantages_BR = torch.zeros_like(rewards_BR)
    next_value_B = torch.zeros_like(rewards_BR[:, 0])
    next_advantage_B = torch.zeros_like(rewards_BR[:, 0])
    for t in reversed(range(rewards_BR.shape[1])):
        delta_B = rewards_BR[:, t] + discount * next_value_B - values_BR[:, t]
        next_advantage_B = (delta_B + discount * gae_lambda * next_advantage_B) * mask_BR[:, t]
        next_value_B = values_BR[:, t]
        advantages_BR[:, t] = next_advantage_B
    return advantages_BR, advantages_BR + values_BR


def whiten(values_BR: Tensor, mask_BR: Tensor, ranks: Ranks) -> Tensor:
    """Normalise real tokens to mean 0 and variance 1 over **all** ranks; 0 where masked."""
    count, total = ranks.sum(torch.stack((mask_BR.sum().float(), (values_BR * mask_BR).sum())))
    centred_BR = (values_BR - total / count) * mask_BR
    variance = ranks.sum(centred_BR.square().sum()) / count
    whitened_BR: Tensor = centred_BR * torch.rsqrt(variance + 1e-8)
    return whitened_BR


def explained_variance(
    values_BR: Tensor, returns_BR: Tensor, mask_BR: Tensor, ranks: Ranks
) -> float:
    """Return 1 - var(return - value) / var(return) over the real tokens of all ranks.

    The value is 1 for a perfect critic and 0 for an uninformative one.
    """
    real_BR = mask_BR.bool()
    parts = (returns_BR[real_BR].double(), (returns_BR - values_BR)[real_BR].double())
    sums = torch.stack([moment for part in parts for moment in (part.sum(), part.square().sum())])
    count, *moments = ranks.sum(torch.cat((real_BR.sum().double()[None], sums))).tolist()
    returns, errors = (
        square / count - (total / count) ** 2
        for total, square in zip(*[iter(moments)] * 2, strict=True)
    )
    return 1 - errors / returns if returns > 1e-12 else 0.0


def group_advantages(scores_B: Tensor, group: int, standardise: bool) -> Tensor:
    """Return each score minus the mean of its group, [B].

    Args:
        standardise: divide by the standard deviation of the group (GRPO, arXiv 2402.03300). Without
            the division (Dr. GRPO, arXiv 2503.20783), questions that are nearly always or never
            solved do not get the highest weight.

    A group with equal scores gets zeros. The deviation is the unbiased one, as in other
    implementations.
    """
    scores_PG = scores_B.view(-1, group)
    advantages_PG = scores_PG - scores_PG.mean(dim=1, keepdim=True)
    if standardise:
        advantages_PG = advantages_PG / (scores_PG.std(dim=1, keepdim=True) + GROUP_EPSILON)
    return advantages_PG.flatten()


def undecided_groups(scores_B: Tensor, group: int) -> Tensor:
    """Return True for each row whose group has different scores, [B].

    Only such groups have a learning signal: DAPO's filter (arXiv 2503.14476).
    """
    scores_PG = scores_B.view(-1, group)
    return (scores_PG != scores_PG[:, :1]).any(dim=1).repeat_interleave(group)
