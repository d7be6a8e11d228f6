"""Log-probabilities of chosen tokens, entropy, and the cross-entropy of responses.

The head runs on the chosen positions only, because logits of all positions would take most of the
memory. Cross-entropy is the loss of SFT, also mixed into PPO and GRPO: a sum divided by a count of
the caller, which covers the whole batch, over all ranks and microbatches.

Shapes: B rows, T columns, N chosen positions, D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.tensors import ResponseBatch
from training.model.backbone import Backbone
from training.model.transformer import Decoder

Chosen = Tensor | tuple[Tensor, ...]
"""Booleans, [B, T], or indices, one tensor [N] per dimension.

Indexing with booleans on an accelerator waits for the device, because the result size is unknown.
"""


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


def weighted_cross_entropy(log_probs_N: Tensor, weights_N: Tensor, weight_total: float) -> Tensor:
    """Return the SFT loss: the sum of weight * -log p over the global sum of weights."""
    return -(log_probs_N * weights_N).sum() / weight_total


def response_loss(
    decoder: Decoder, hidden_BTD: Tensor, batch: ResponseBatch, weight_total: float
) -> Tensor:
    """Return the loss of a batch from its last hidden states."""
    chosen_BT = batch.response_mask_BT
    log_probs_N = next_token_log_probs(decoder, hidden_BTD, batch.ids_BT, chosen_BT)
    weights_N = batch.weights_B[:, None].expand(chosen_BT.shape)[:, 1:][chosen_BT[:, 1:]]
    return weighted_cross_entropy(log_probs_N, weights_N, weight_total)


def batch_loss(backbone: Backbone, batch: ResponseBatch, weight_total: float) -> Tensor:
    """Return the cross-entropy of the response tokens over `weight_total`."""
    return response_loss(
        backbone.decoder, backbone.hidden(batch.ids_BT, batch.mask_BT), batch, weight_total
    )
