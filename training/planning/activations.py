"""Activation memory between forward and backward pass, in bytes.

The counts follow Korthikanti et al. (arXiv 2205.05198, section 4). Our transformer stores more:
norms are computed in fp32, and under autocast every projection has its own bf16 copy of its input
and of its weight. Tests compare the counts with autograd.

Sizes: d hidden, F intermediate, Q and K all query and key-value heads together, T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.model.config import ModelConfig
from training.planning.sizes import BF16 as BF16
from training.planning.sizes import FP32 as FP32
from training.planning.sizes import Sizes

# Bytes per logit in fp32: the scaled logit, and three temporary values for its gradient
# (token_log_probs). Measured.
LOGIT_BYTES = 4 * FP32


@dataclass(frozen=True)
class Forward:
    """Settings of a forward pass with gradients.

    Attributes:
        narrow: bf16 autocast.
        adapted: only an adapter is trained.
        recomputed: activation checkpointing.
    """

    tensor: int = 1
    narrow: bool = True
    adapted: bool = False
    recomputed: bool = False

    @property
    def product_bytes(self) -> int:
        """Return the bytes of a number in a matrix product."""
        return BF16 if self.narrow else FP32


def layer_bytes(model: ModelConfig, forward: Forward, tokens: int) -> float:
    """Return the stored bytes of a layer per token, for rows of `tokens`."""
    d, wide = model.hidden_size, model.intermediate_size
    q, k = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    number = forward.product_bytes
    of_norms = (4 if model.sandwich_norms else 2) * _norm_bytes(d, model, forward)
    # Under autocast each projection has its own copy of the input.
    projections = 3 + (2 if model.gated_mlp else 1)
    inputs = projections * d * BF16 if forward.narrow else 2 * d * FP32
    # Queries, keys, values and outputs, and a sum per head.
    split: float = (2 * q + 2 * k) * number + model.num_heads * FP32
    if model.qk_norm:
        split += _norm_bytes(q + k, model, forward)
    split += (4 if model.gated_mlp else 2) * wide * number
    # A number for each pair of tokens, computed in each layer from the boolean mask.
    mask = tokens * number
    return of_norms + inputs + mask + split / forward.tensor


def passing_bytes(model: ModelConfig, forward: Forward, rows: int, tokens: int) -> float:
    """Return the temporary bytes of a layer, without gradients or during recomputation."""
    last_norm = _norm_bytes(model.hidden_size, model, forward)
    boolean_mask = tokens
    return rows * tokens * (layer_bytes(model, forward, tokens) + last_norm + boolean_mask)


def kept_bytes(model: ModelConfig, forward: Forward, rows: int, tokens: int) -> float:
    """Return the stored bytes of a forward pass of `rows` x `tokens`, without copies of weights.

    With recomputation these are the inputs of all layers, and one layer.
    """
    if forward.recomputed:
        inputs = rows * tokens * model.num_layers * model.hidden_size * FP32
        return inputs + passing_bytes(model, forward, rows, tokens)
    last_norm = _norm_bytes(model.hidden_size, model, forward)
    return rows * tokens * (model.num_layers * layer_bytes(model, forward, tokens) + last_norm)


def copied_weights_bytes(sizes: Sizes, forward: Forward) -> float:
    """Return the bytes of the bf16 copies of fp32 projections.

    Autograd stores them from forward to backward pass. With recomputation they are in autocast's
    cache until the end of the forward pass, unless they are frozen.
    """
    if not forward.narrow:
        return 0.0
    if forward.recomputed and forward.adapted:
        return sizes.layer_matrices / forward.tensor * BF16
    return sizes.matrices / forward.tensor * BF16


def _norm_bytes(size: int, model: ModelConfig, forward: Forward) -> float:
    """Return the bytes of a norm: its fp32 input, and for an RMS norm also the second factor."""
    return size * FP32 * (1 if model.layer_norm or forward.adapted else 2)
