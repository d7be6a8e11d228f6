"""Attention with rotary positions over a growing cache, for OpenVINO's SDPAToPagedAttention pass.

The pass discards the mask and reads only the constant of the window, by matching the chain of
BitwiseAnd below. In any other form the window is silently dropped
(tests/services/predictor/graph/test_sliding_window.py).

Shapes: B batch, L new tokens, T tokens in the cache, H heads, K key/value heads, d head size, D
hidden size.
"""

from dataclasses import dataclass, field

import numpy as np
import openvino as ov
from openvino import opset15 as ops
from openvino.op.util import Variable, VariableInfo

from services.predictor.graph.architecture import Architecture, AttentionKind, Rope
from services.predictor.graph.checkpoint import Float32
from services.predictor.graph.weights import Constants, Weights

MASKED = -65504.0  # lowest float16 value, finite in every inference type
RotaryTable = tuple[ov.Node, ov.Node]  # cos, sin: [B, 1, L, d]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The four inputs of the graph.

    attention_mask [B, T] may feed only the masks, otherwise the pass does not apply.
    """

    input_ids: ov.Node  # [B, L] i64
    attention_mask: ov.Node  # [B, T] i64
    position_ids: ov.Node  # [B, L] i64
    beam_idx: ov.Node  # [B] i32


def inverse_frequencies(rope: Rope, head_dim: int) -> Float32:
    """Return the angle per position of each pair, [d / 2] (transformers, modeling_rope_utils)."""
    plain = 1.0 / rope.theta ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    scaling = rope.llama3
    if scaling is None:
        return np.asarray(plain / rope.linear_factor, np.float32)
    wavelength = 2 * np.pi / plain
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    unscaled = np.clip((scaling.original_positions / wavelength - low) / (high - low), 0, 1)
    return np.asarray((1 - unscaled) * plain / scaling.factor + unscaled * plain, np.float32)


def rotary_tables(
    architecture: Architecture, position_ids: ov.Node, constants: Constants
) -> dict[AttentionKind, RotaryTable]:
    """Return cos and sin for each attention kind; position_ids is [B, L]."""
    positions_B1L = ops.convert(ops.unsqueeze(position_ids, constants.ints(1)), "f32")
    tables: dict[AttentionKind, RotaryTable] = {}
    for kind, rope in architecture.ropes.items():
        frequencies = inverse_frequencies(rope, architecture.head_dim).reshape(1, -1, 1)
        angles = ops.matmul(constants.array(frequencies), positions_B1L, False, False)
        half_BLd = ops.transpose(angles, constants.ints(0, 2, 1))
        both_BLd = ops.concat([half_BLd, half_BLd], -1)
        cos, sin = (
            ops.unsqueeze(function(both_BLd), constants.ints(1)) for function in (ops.cos, ops.sin)
        )
        tables[kind] = (cos, sin)
    return tables


def rotate(x_BHLd: ov.Node, table: RotaryTable, head_dim: int, constants: Constants) -> ov.Node:
    """Rotate each pair (i, i + d/2) by its angle, in the half-split layout of Hugging Face."""
    cos, sin = table
    half, end, step, axis = (
        head_dim // 2,
        np.iinfo(np.int64).max,
        constants.ints(1),
        constants.ints(3),
    )
    first = ops.slice(x_BHLd, constants.ints(0), constants.ints(half), step, axis)
    second = ops.slice(x_BHLd, constants.ints(half), constants.ints(end), step, axis)
    rotated = ops.concat([ops.multiply(second, constants.scalar(-1.0)), first], -1)
    return ops.add(ops.multiply(x_BHLd, cos), ops.multiply(rotated, sin))


def additive_masks(
    architecture: Architecture, inputs: Inputs, constants: Constants
) -> dict[AttentionKind, ov.Node]:
    """Return a mask [B, 1, L, T] per attention kind: 0 for visible tokens, else MASKED."""
    batch, new = _size(inputs.input_ids, 0), _size(inputs.input_ids, 1)
    total = _size(inputs.attention_mask, 1)
    one, true = ops.constant(1), ops.constant(True)
    keys = ops.unsqueeze(ops.range(ops.constant(0), total, one, "i64"), constants.ints(0, 1, 2))
    queries = ops.unsqueeze(
        ops.range(ops.subtract(total, new), total, one, "i64"), constants.ints(0, 1, 3)
    )
    not_padding = ops.unsqueeze(ops.convert(inputs.attention_mask, "boolean"), constants.ints(1, 2))
    sizes = [ops.unsqueeze(size, constants.ints(0)) for size in (batch, new, total)]
    shape = ops.concat([sizes[0], constants.ints(1), sizes[1], sizes[2]], 0)
    masks: dict[AttentionKind, ov.Node] = {}
    for kind in architecture.ropes:
        visible = ops.less_equal(keys, queries)
        # The redundant `true` operands are part of the pattern that the pass matches.
        if kind is AttentionKind.SLIDING:
            window = ops.constant(np.full((1, 1, 1, 1), -architecture.sliding_window, np.int64))
            inside = ops.bitwise_and(true, ops.greater(keys, ops.add(queries, window)))
            visible = ops.bitwise_and(true, ops.bitwise_and(inside, visible))
        visible = ops.broadcast(
            ops.bitwise_and(visible, not_padding), shape, broadcast_spec="BIDIRECTIONAL"
        )
        masks[kind] = ops.select(visible, constants.scalar(0.0), constants.scalar(MASKED))
    return masks


@dataclass(slots=True)
class AttentionBlocks:
    """Builds the attention of each layer and collects the cache assignments of the model."""

    architecture: Architecture
    weights: Weights
    inputs: Inputs
    tables: dict[AttentionKind, RotaryTable]
    masks: dict[AttentionKind, ov.Node]
    assigns: list[ov.Node] = field(default_factory=list)

    def build(self, x_BLD: ov.Node, layer: int) -> ov.Node:
        """Return the attention of one layer, [B, L, D] → [B, L, D], without norm and residual."""
        shape, constants = self.architecture, self.weights.constants
        name, kind = f"model.layers.{layer}.self_attn", shape.layers[layer]
        table = self.tables[kind]
        q_BHLd = rotate(
            self._heads(x_BLD, name, "q", shape.num_heads), table, shape.head_dim, constants
        )
        k_BKLd = rotate(
            self._heads(x_BLD, name, "k", shape.num_kv_heads), table, shape.head_dim, constants
        )
        k_BHTd = self._repeat(self._cached(k_BKLd, f"{layer}.key"))
        v_BHTd = self._repeat(
            self._cached(self._heads(x_BLD, name, "v", shape.num_kv_heads), f"{layer}.value")
        )
        scale = constants.scalar(shape.attention_scale)
        y_BHLd = ops.scaled_dot_product_attention(
            q_BHLd, k_BHTd, v_BHTd, self.masks[kind], scale, False
        )
        width = shape.num_heads * shape.head_dim
        y_BLD = ops.reshape(
            ops.transpose(y_BHLd, constants.ints(0, 2, 1, 3)), constants.ints(0, 0, width), True
        )
        return self.weights.linear(y_BLD, f"{name}.o_proj", width, shape.hidden_size)

    def _heads(self, x_BLD: ov.Node, name: str, which: str, count: int) -> ov.Node:
        """Project and split into [B, count, L, d]; Qwen 3 and Gemma 3 norm queries and keys."""
        shape, constants = self.architecture, self.weights.constants
        y = self.weights.linear(
            x_BLD, f"{name}.{which}_proj", shape.hidden_size, count * shape.head_dim
        )
        y = ops.reshape(y, constants.ints(0, 0, count, shape.head_dim), True)
        y = ops.transpose(y, constants.ints(0, 2, 1, 3))
        norm = f"{name}.{which}_norm"
        if f"{norm}.weight" not in self.weights.checkpoint:
            return y
        return self.weights.rms_norm(y, norm, shape.norm_epsilon, float(shape.is_gemma), rank=4)

    def _cached(self, new_BKLd: ov.Node, what: str) -> ov.Node:
        """Return past and new tokens, [B, K, T, d]; the past is reordered by beam_idx."""
        shape, constants = self.architecture, self.weights.constants
        layer, kind = what.split(".")
        info = VariableInfo()
        info.data_shape = ov.PartialShape([-1, shape.num_kv_heads, -1, shape.head_dim])
        info.data_type = ov.Type.f32
        # Names of the variables as in exports of optimum-intel.
        info.variable_id = f"past_key_values.{layer}.{kind}present.{layer}.{kind}"
        variable = Variable(info)
        batch = ops.gather(ops.shape_of(self.inputs.input_ids), constants.ints(0), ops.constant(0))
        empty = ops.concat([batch, constants.ints(shape.num_kv_heads, 0, shape.head_dim)], 0)
        start = ops.broadcast(constants.scalar(0.0), empty)
        past = ops.gather(ops.read_value(start, variable), self.inputs.beam_idx, ops.constant(0))
        total = ops.concat([past, new_BKLd], -2)
        self.assigns.append(ops.assign(total, variable))
        return total

    def _repeat(self, x_BKTd: ov.Node) -> ov.Node:
        """Repeat each key/value head for H / K query heads (grouped queries).

        The pass requires the sequence Unsqueeze, Broadcast, Reshape.
        """
        shape, constants = self.architecture, self.weights.constants
        times = shape.num_heads // shape.num_kv_heads
        if times == 1:
            return x_BKTd
        spread = ops.broadcast(
            ops.unsqueeze(x_BKTd, constants.ints(2)),
            constants.ints(1, 1, times, 1, 1),
            broadcast_spec="BIDIRECTIONAL",
        )
        return ops.reshape(spread, constants.ints(0, shape.num_heads, -1, shape.head_dim), True)


def _size(x: ov.Node, axis: int) -> ov.Node:
    return ops.gather(ops.shape_of(x), ops.constant(axis), ops.constant(0))
