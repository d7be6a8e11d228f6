"""Cross-entropy of response tokens: the loss of SFT, also mixed into PPO and GRPO.

The loss is a sum divided by a count of the caller, which covers the whole batch, over all ranks and
microbatches.

Shapes: B rows, T columns, N response tokens, D hidden.
"""

from __future__ import annotations

from torch import Tensor

from training.data.tensors import ResponseBatch
from training.losses.log_probs import next_token_log_probs
from training.model.backbone import Backbone
from training.model.transformer import Decoder


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
