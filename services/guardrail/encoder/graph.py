"""OpenVINO graph of the encoder with matrix products in eight bits.

Weights have one range a row, activations one range a layer, from texts of the training. Shapes: B
texts, T tokens, D = WIDTH values a token, P pools, H heads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

WIDTH, ATTENTION_HEADS, EPSILON = 384, 12, 1e-12
# Weights use the middle half of their levels: on processors without VNNI, sums of two products
# must fit 16 bits.
WEIGHT_LEVELS, WEIGHT_RANGE, ACTIVATION_LEVELS = 255, 2, 256
# Inputs of the linear layers whose ranges the training measures, in the order of `ranges`.
INPUTS = ("attention.self", "attention.output", "intermediate", "output")
LINEAR = (
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
HIDDEN = -1e4  # added to scores of padding

Array = npt.NDArray[Any]


def build(weights: Mapping[str, Array], ranges: Array) -> ov.Model:
    """Return the graph from tokens and mask, both i64 [B, T], to logits f32 [B, H].

    Args:
        weights: base with merged adapters, by the names of the base, and "pools" and "heads".
        ranges: lowest and highest input of the linear layers of each block, [layers, 4, 2].
    """
    return _Builder(weights, ranges).model()


class _Builder:
    def __init__(self, weights: Mapping[str, Array], ranges: Array) -> None:
        self._weights = weights
        self._ranges = ranges.astype(np.float32)

    def model(self) -> ov.Model:
        tokens = ops.parameter([-1, -1], ov.Type.i64, name="tokens")
        mask = ops.parameter([-1, -1], ov.Type.i64, name="mask")
        visible = ops.convert(mask, "f32")
        bias = ops.multiply(ops.subtract(visible, _f32(1.0)), _f32(-HIDDEN))
        x = self._embedded(tokens)
        attention_bias = ops.unsqueeze(bias, _ints(1, 2))
        for layer in range(len(self._ranges)):
            x = self._block(x, attention_bias, layer)
        logits = self._pooled(x, visible, bias)
        return ov.Model([ops.result(logits)], [tokens, mask], "guardrail_encoder")

    def _embedded(self, tokens: ov.Node) -> ov.Node:
        words = ops.gather(self._constant("embeddings.word_embeddings.weight"), tokens, _ints(0))
        length = ops.gather(ops.shape_of(tokens), _ints(1), _ints(0))
        table = self._weights["embeddings.position_embeddings.weight"]
        table = table + self._weights["embeddings.token_type_embeddings.weight"][0]
        positions = ops.slice(
            ops.constant(np.ascontiguousarray(table)), _ints(0), length, _ints(1), _ints(0)
        )
        return self._norm(ops.add(words, positions), "embeddings.LayerNorm")

    def _block(self, x: ov.Node, bias: ov.Node, layer: int) -> ov.Node:
        place = f"encoder.layer.{layer}"

        def split(name: str, inputs: ov.Node) -> ov.Node:
            y = self._linear(inputs, f"{place}.attention.self.{name}")
            y = ops.reshape(y, _ints(0, 0, ATTENTION_HEADS, -1), special_zero=True)
            return ops.transpose(y, _ints(0, 2, 1, 3))

        inputs = self._rounded(x, layer, "attention.self")
        query, key, value = (split(name, inputs) for name in ("query", "key", "value"))
        mixed = ops.scaled_dot_product_attention(query, key, value, bias)
        mixed = ops.reshape(
            ops.transpose(mixed, _ints(0, 2, 1, 3)), _ints(0, 0, WIDTH), special_zero=True
        )
        mixed = self._linear(
            self._rounded(mixed, layer, "attention.output"), f"{place}.attention.output.dense"
        )
        x = self._norm(ops.add(x, mixed), f"{place}.attention.output.LayerNorm")
        inner = self._linear(self._rounded(x, layer, "intermediate"), f"{place}.intermediate.dense")
        inner = ops.gelu(inner, "ERF")
        inner = self._linear(self._rounded(inner, layer, "output"), f"{place}.output.dense")
        return self._norm(ops.add(x, inner), f"{place}.output.LayerNorm")

    def _pooled(self, x: ov.Node, visible: ov.Node, bias: ov.Node) -> ov.Node:
        scores = self._plain_linear(x, "pools")
        scores = ops.softmax(ops.add(scores, ops.unsqueeze(bias, _ints(2))), 1)
        pooled = ops.matmul(scores, x, True, False)
        pooled = ops.reshape(pooled, _ints(0, -1), special_zero=True)
        weights = ops.divide(visible, ops.reduce_sum(visible, _ints(1), True))
        mean = ops.squeeze(ops.matmul(ops.unsqueeze(weights, _ints(1)), x, False, False), _ints(1))
        return self._plain_linear(ops.concat([pooled, mean], 1), "heads")

    def _rounded(self, x: ov.Node, layer: int, name: str) -> ov.Node:
        low, high = (_f32(value) for value in self._ranges[layer, INPUTS.index(name)])
        return ops.fake_quantize(x, low, high, low, high, ACTIVATION_LEVELS)

    def _linear(self, x: ov.Node, name: str) -> ov.Node:
        weights = self._weights[f"{name}.weight"]
        highest = WEIGHT_RANGE * np.maximum(np.abs(weights).max(axis=1, keepdims=True), 1e-6)
        low, high = ops.constant(-highest), ops.constant(highest)
        rounded = ops.fake_quantize(
            ops.constant(np.ascontiguousarray(weights)), low, high, low, high, WEIGHT_LEVELS
        )
        y = ops.matmul(x, rounded, False, True)
        return ops.add(y, self._constant(f"{name}.bias"))

    def _plain_linear(self, x: ov.Node, name: str) -> ov.Node:
        y = ops.matmul(x, self._constant(f"{name}.weight"), False, True)
        return ops.add(y, self._constant(f"{name}.bias"))

    def _norm(self, x: ov.Node, name: str) -> ov.Node:
        y = ops.mvn(x, _ints(-1), True, EPSILON, "INSIDE_SQRT")
        y = ops.multiply(y, self._constant(f"{name}.weight"))
        return ops.add(y, self._constant(f"{name}.bias"))

    def _constant(self, name: str) -> ov.Node:
        return ops.constant(np.ascontiguousarray(self._weights[name]))


def _f32(value: float) -> ov.Node:
    return ops.constant(np.float32(value))


def _ints(*values: int) -> ov.Node:
    return ops.constant(np.array(values, np.int64))
