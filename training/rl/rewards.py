"""From a score per response to a reward per token.

Shapes: B batch, R response tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.model.head import last_real_column
from training.rl.losses import k1


def response_scores(scores_B: Tensor, ended_B: Tensor, missing_eos_penalty: float, clip: float) -> Tensor:
    """Normalised scores, clipped, less a penalty where the response did not end by itself (N+ details, arXiv 2403.17031)."""
    return scores_B.clamp(-clip, clip) - missing_eos_penalty * (~ended_B).float()


def token_rewards(scores_B: Tensor, log_probs_BR: Tensor, reference_BR: Tensor, mask_BR: Tensor, beta: float) -> Tensor:
    """-beta (log p - log p_ref) on every real token, and the score on the last real one. [B, R], 0 where masked."""
    rewards_BR = -beta * k1(log_probs_BR, reference_BR) * mask_BR
    rows_B = torch.arange(mask_BR.shape[0])
    rewards_BR[rows_B, last_real_column(mask_BR)] += scores_B
    return rewards_BR


def sequence_kl(log_probs_BR: Tensor, reference_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """KL to the reference of each response in nats, estimated by k1, [B]."""
    return (k1(log_probs_BR, reference_BR) * mask_BR).sum(1)
