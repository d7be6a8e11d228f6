"""What autograd keeps of a forward until its backward, in bytes. Counted as Korthikanti et al.
count (arXiv 2205.05198, section 4), but for our transformer, which keeps more: norms are computed
in fp32, and under autocast every projection keeps its own bf16 copy of its input and of its weight.
Tests hold the counts against what autograd keeps.

Sizes: d hidden, F intermediate, Q and K all query and key-value heads together, T tokens of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.model.config import ModelConfig
from training.planning.sizes import BF16 as BF16
from training.planning.sizes import FP32 as FP32
from training.planning.sizes import Sizes

# Of one logit in fp32: the scaled logits stay, and three more are there at once while their
# gradient is made (token_log_probs). Measured.
LOGIT_BYTES = 4 * FP32


@dataclass(frozen=True)
class Forward:
    """How a network is computed with gradients. narrow: bf16 autocast. adapted: only an adapter
    learns. recomputed: activation checkpointing.
    """

    tensor: int = 1
    narrow: bool = True
    adapted: bool = False
    recomputed: bool = False

    @property
    def product_bytes(self) -> int:
        """Of a number that goes into a product."""
        return BF16 if self.narrow else FP32


def layer_bytes(model: ModelConfig, forward: Forward, tokens: int) -> float:
    """Kept of one layer, per token of rows of `tokens`."""
    d, wide = model.hidden_size, model.intermediate_size
    q, k = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    number = forward.product_bytes
    of_norms = (4 if model.sandwich_norms else 2) * _norm_bytes(d, model, forward)
    # Under autocast each projection has its own copy of what goes in.
    projections = 3 + (2 if model.gated_mlp else 1)
    inputs = projections * d * BF16 if forward.narrow else 2 * d * FP32
    split: float = (
        2 * q + 2 * k
    ) * number + model.num_heads * FP32  # queries, keys, values, what comes out, and a sum a head
    if model.qk_norm:
        split += _norm_bytes(q + k, model, forward)
    split += (4 if model.gated_mlp else 2) * wide * number
    mask = (
        tokens * number
    )  # a number for each pair of tokens, made in each layer of the mask of booleans
    return of_norms + inputs + mask + split / forward.tensor


def passing_bytes(model: ModelConfig, forward: Forward, rows: int, tokens: int) -> float:
    """Of one layer at a time: without gradients, or while a layer is computed again."""
    last_norm = _norm_bytes(model.hidden_size, model, forward)
    return (
        rows * tokens * (layer_bytes(model, forward, tokens) + last_norm + tokens)
    )  # and the mask of booleans


def kept_bytes(model: ModelConfig, forward: Forward, rows: int, tokens: int) -> float:
    """Of a whole forward of `rows` x `tokens`, without copies of weights; with recomputation, the
    inputs of all layers, and one layer.
    """
    if forward.recomputed:
        inputs = rows * tokens * model.num_layers * model.hidden_size * FP32
        return inputs + passing_bytes(model, forward, rows, tokens)
    last_norm = _norm_bytes(model.hidden_size, model, forward)
    return rows * tokens * (model.num_layers * layer_bytes(model, forward, tokens) + last_norm)


def copied_weights_bytes(sizes: Sizes, forward: Forward) -> float:
    """bf16 copies of projections that are there in fp32. Autograd keeps them from a forward to its
    backward; with recomputation they live in autocast's cache to the end of the forward, unless
    frozen.
    """
    if not forward.narrow:
        return 0.0
    if forward.recomputed and forward.adapted:
        return sizes.layer_matrices / forward.tensor * BF16
    return sizes.matrices / forward.tensor * BF16


def _norm_bytes(size: int, model: ModelConfig, forward: Forward) -> float:
    """What goes in, in fp32; and, for the gradient of an RMS norm's weight, what it is multiplied
    by.
    """
    return size * FP32 * (1 if model.layer_norm or forward.adapted else 2)
