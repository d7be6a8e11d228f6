"""Log-probabilities of chosen tokens, entropy, and the cross-entropy of responses.

The head runs on the chosen positions only, in chunks if there are many, because logits would take
most of the memory: with 152k tokens 9 GiB for 4,096 positions, gradient included. Cross-entropy is
the loss of SFT, also mixed into PPO and GRPO: a sum divided by a count of the caller, which covers
the whole batch, over all ranks and microbatches.

Shapes: B rows, T columns, N chosen positions, D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.data.tensors import ResponseBatch
from training.model.backbone import Backbone
from training.model.transformer import Decoder

Chosen = Tensor | tuple[Tensor, ...]
"""Booleans, [B, T], or indices, one tensor [N] per dimension.

Indexing with booleans on an accelerator waits for the device, because the result size is unknown.
"""

# Up to STORED_LOGITS autograd stores them with three more values of this size, as in the recipes of
# small models. More are computed in chunks of CHUNK_LOGITS with one more value: both take 1 GiB.
STORED_LOGITS, CHUNK_LOGITS = 1 << 26, 1 << 27


class TokenFigures(NamedTuple):
    """Log-probability of each target, [N], and entropy of each distribution in nats.

    The entropy has no gradient; it is empty unless requested.
    """

    log_probs_N: Tensor
    entropy_N: Tensor


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
    with_entropy: bool = False,
) -> TokenFigures:
    """Return log-probabilities of the chosen targets, and the entropies if requested.

    The state at a position predicts the target at the same position.
    """
    figures: TokenFigures = decoder.apply_head(
        head_figures, states_BTD[chosen], targets_BT[chosen], temperature, with_entropy
    )
    return figures


def head_figures(
    weight_VD: Tensor,
    states_ND: Tensor,
    targets_N: Tensor,
    temperature: float = 1.0,
    with_entropy: bool = False,
) -> TokenFigures:
    """Return the figures of states under a head, computed in fp32.

    Beyond STORED_LOGITS the values and gradients are the same within fp32's rounding.
    """
    with torch.autocast(states_ND.device.type, enabled=False):
        states_ND, weight_VD = states_ND.float(), weight_VD.float()
        if states_ND.shape[0] * weight_VD.shape[0] > STORED_LOGITS:
            return TokenFigures(
                *_ChunkedFigures.apply(states_ND, weight_VD, targets_N, temperature, with_entropy)
            )
        logits_NV = F.linear(states_ND, weight_VD)
        log_probs_N = token_log_probs(logits_NV, targets_N, temperature)
        entropy_N = token_entropy(logits_NV, temperature) if with_entropy else log_probs_N[:0]
        return TokenFigures(log_probs_N, entropy_N.detach())


class _ChunkedFigures(torch.autograd.Function):
    """Figures of a head without storing logits for the backward pass.

    With G the gradient of a log-probability, p the softmax of its logits and W the head, the
    gradient of its state is G (W[target] - p W) / temperature. Of a frozen head this is stored
    except for the factor G, [N, D], at the cost of no product more than autograd's. A trained head
    needs p again in the backward pass, so its logits are computed a second time.
    """

    @staticmethod
    def forward(
        ctx: Any,
        states_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        of_states, ctx.of_weight = ctx.needs_input_grad[:2]
        log_probs_N = states_ND.new_empty(len(states_ND))
        entropy_N = states_ND.new_empty(len(states_ND) if with_entropy else 0)
        towards_ND = torch.empty_like(states_ND) if of_states and not ctx.of_weight else None
        for part in _chunks(states_ND, weight_VD):
            scaled_nV = F.linear(states_ND[part], weight_VD).div_(temperature)
            total_n1 = scaled_nV.logsumexp(-1, keepdim=True)
            target_n1 = targets_N[part, None]
            log_probs_N[part] = (scaled_nV.gather(-1, target_n1) - total_n1).squeeze(-1)
            scaled_nV -= total_n1  # log-probabilities of all tokens
            if with_entropy:
                entropy_N[part] = -(scaled_nV.exp().mul_(scaled_nV)).sum(-1)
            if towards_ND is not None:
                expected_nD = scaled_nV.exp_() @ weight_VD
                towards_ND[part] = (weight_VD[targets_N[part]] - expected_nD) / temperature
        ctx.temperature, ctx.stores_direction = temperature, towards_ND is not None
        stored = (states_ND, weight_VD, targets_N) if towards_ND is None else (towards_ND,)
        ctx.save_for_backward(*stored)
        ctx.mark_non_differentiable(entropy_N)
        return log_probs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        gradient_N = gradients[0]
        if ctx.stores_direction:
            (towards_ND,) = ctx.saved_tensors
            return gradient_N[:, None] * towards_ND, None, None, None, None
        states_ND, weight_VD, targets_N = ctx.saved_tensors
        of_states_ND = torch.empty_like(states_ND) if ctx.needs_input_grad[0] else None
        of_weight_VD = torch.zeros_like(weight_VD)
        for part in _chunks(states_ND, weight_VD):
            scaled_nV = F.linear(states_ND[part], weight_VD).div_(ctx.temperature)
            # Gradient of the logits: G (1 at the target - p) / temperature.
            of_logits_nV = scaled_nV.sub_(scaled_nV.logsumexp(-1, keepdim=True)).exp_()
            scaled_G_n1 = gradient_N[part, None] / ctx.temperature
            of_logits_nV.mul_(-scaled_G_n1).scatter_add_(-1, targets_N[part, None], scaled_G_n1)
            of_weight_VD.addmm_(of_logits_nV.T, states_ND[part])
            if of_states_ND is not None:
                of_states_ND[part] = of_logits_nV @ weight_VD
        return of_states_ND, of_weight_VD, None, None, None


def _chunks(states_ND: Tensor, weight_VD: Tensor) -> list[slice]:
    rows = max(1, CHUNK_LOGITS // weight_VD.shape[0])
    return [slice(start, start + rows) for start in range(0, len(states_ND), rows)]


def next_token_log_probs(
    decoder: Decoder, hidden_BTD: Tensor, ids_BT: Tensor, chosen_BT: Tensor
) -> Tensor:
    """Return the log-probability of each chosen token given the tokens before it, [N].

    Args:
        chosen_BT: booleans; the first column is ignored.
    """
    return chosen_log_probs(
        decoder, hidden_BTD[:, :-1], ids_BT[:, 1:], chosen_BT[:, 1:]
    ).log_probs_N


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
