"""Rotary position embedding: frequencies in numpy, tables and rotation in the graph.

Shapes: B batch, L new tokens, H heads, d head size.
"""

import numpy as np
import openvino as ov
from openvino import opset15 as ops

from services.predictor.graph.architecture import Architecture, AttentionKind, Rope
from services.predictor.graph.checkpoint import Float32
from services.predictor.graph.weights import Constants

RotaryTable = tuple[ov.Node, ov.Node]  # cos, sin: [B, 1, L, d]


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
