"""Log-probabilities of chosen tokens, shared by all stages.

The head runs on the chosen positions only, because logits of all positions would take most of the
memory.

Shapes: B rows, T columns, N chosen positions, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.model.transformer import Decoder
from training.rl.losses import token_log_probs

Chosen = Tensor | tuple[Tensor, ...]
"""Booleans, [B, T], or indices, one tensor [N] per dimension.

Indexing with booleans on an accelerator waits for the device, because the result size is unknown.
"""


def chosen_log_probs(
    decoder: Decoder,
    states_BTD: Tensor,
    targets_BT: Tensor,
    chosen: Chosen,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities of the chosen targets, [N], and their logits, [N, V].

    The state at a position predicts the target at the same position.
    """
    logits_NV = decoder.logits(states_BTD[chosen])
    return token_log_probs(logits_NV, targets_BT[chosen], temperature), logits_NV


def next_token_log_probs(
    decoder: Decoder, hidden_BTD: Tensor, ids_BT: Tensor, chosen_BT: Tensor
) -> Tensor:
    """Return the log-probability of each chosen token given the tokens before it, [N].

    Args:
        chosen_BT: booleans; the first column is ignored.
    """
    log_probs_N, _ = chosen_log_probs(decoder, hidden_BTD[:, :-1], ids_BT[:, 1:], chosen_BT[:, 1:])
    return log_probs_N


def scatter_back(values_N: Tensor, chosen: Chosen, shape: torch.Size) -> Tensor:
    """Scatter the values to their positions in a tensor of zeros, [B, T]."""
    placed_BT = values_N.new_zeros(shape)
    placed_BT[chosen] = values_N
    return placed_BT
