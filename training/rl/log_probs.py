"""Log-probabilities of chosen tokens, for every stage in one way: the head runs on the places that
are asked for alone, as logits of all would take most of the memory.

Shapes: B rows, T columns, N chosen places, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.model.transformer import Decoder
from training.rl.losses import token_log_probs

Chosen = Tensor | tuple[Tensor, ...]
"""Booleans, [B, T], or places, one tensor [N] a dimension. To pick by booleans of an accelerator waits for it: how many are there?"""


def chosen_log_probs(
    decoder: Decoder,
    states_BTD: Tensor,
    targets_BT: Tensor,
    chosen: Chosen,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each chosen target in the state that stands at its place, [N]; and those
    places' logits, [N, V].
    """
    logits_NV = decoder.logits(states_BTD[chosen])
    return token_log_probs(logits_NV, targets_BT[chosen], temperature), logits_NV


def next_token_log_probs(
    decoder: Decoder, hidden_BTD: Tensor, ids_BT: Tensor, chosen_BT: Tensor
) -> Tensor:
    """Log-probability of each chosen token given what is before it, [N]. chosen_BT: booleans; the
    first column's do not count.
    """
    log_probs_N, _ = chosen_log_probs(decoder, hidden_BTD[:, :-1], ids_BT[:, 1:], chosen_BT[:, 1:])
    return log_probs_N


def in_place(values_N: Tensor, chosen: Chosen, shape: torch.Size) -> Tensor:
    """[B, T]: each value where it was chosen, and 0 elsewhere."""
    placed_BT = values_N.new_zeros(shape)
    placed_BT[chosen] = values_N
    return placed_BT
