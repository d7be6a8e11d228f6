"""Generalised advantage estimation and whitening, both blind to what is masked.

Shapes: B batch, R response tokens. values_BR[:, t] is the value of the state *before* response token t.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.optim.ranks import Ranks


def gae(
    rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns (arXiv 1506.02438), [B, R] each, 0 where masked. Nothing is bootstrapped past the last real token.

    delta_t = r_t + discount v_{t+1} - v_t;  A_t = delta_t + discount lambda A_{t+1};  return_t = A_t + v_t
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
    """Mean 0 and variance 1 over the real tokens of the batch of **all** ranks; 0 where masked."""
    count, total = ranks.sum(torch.stack((mask_BR.sum().float(), (values_BR * mask_BR).sum())))
    centred_BR = (values_BR - total / count) * mask_BR
    variance = ranks.sum(centred_BR.square().sum()) / count
    whitened_BR: Tensor = centred_BR * torch.rsqrt(variance + 1e-8)
    return whitened_BR


def explained_variance(values_BR: Tensor, returns_BR: Tensor, mask_BR: Tensor) -> float:
    """1 - var(return - value) / var(return) over real tokens: 1 is a perfect critic, 0 one that knows nothing."""
    real_BR = mask_BR.bool()
    returns_N, errors_N = returns_BR[real_BR], (returns_BR - values_BR)[real_BR]
    spread = returns_N.var(correction=0)
    return float(1 - errors_N.var(correction=0) / spread) if spread > 0 else 0.0
