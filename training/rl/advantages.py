"""Rewards from scores, and advantages: by a critic (GAE, for PPO) or relative to a group (GRPO).

PPO converts the score of a response to a reward per token, with a KL penalty whose weight (beta) is
fixed or adapted to a target (Ziegler et al., arXiv 1909.08593). Masked tokens have no influence.

Shapes: B batch, R response tokens, P prompts, G responses to each. values_BR[:, t] is the value of
the state *before* response token t. Rows of a group are adjacent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.losses.policy import k1
from training.model.reward import last_real_column
from training.rl.config import MAX_RELATIVE_ERROR, KlConfig
from training.runtime.ranks import Ranks

GROUP_EPSILON = 1e-4  # as in TRL; scores of verifiers are 0 or 1


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
