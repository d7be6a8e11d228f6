"""Weights as graph nodes: constants, norms, and 8-bit matrices with fused decompression.

Eight-bit weights are unsigned, with one scale and one zero point for each group of 64 values of a
row. Reasons and measured errors: docs/decisions/predictor.md.

OpenVINO constants share the memory of numpy arrays here, so a `Constants` object must outlive the
graph.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.checkpoint import Checkpoint

BLOCK_VALUES = 1 << 18  # 1 MB of float32, so that a block fits into the processor's cache
GROUP_VALUES = 64  # share a scale; a row that groups do not divide is one group
SMALLEST_SCALE = 1e-7  # avoids a division by zero; rounds to float16's smallest step


class WeightFormat(StrEnum):
    """Storage of matrices in the graph; f32 is for parity tests and evaluations."""

    U8 = "u8"
    F32 = "f32"


@dataclass(frozen=True, slots=True)
class QuantisedMatrix:
    """A quantised matrix, weight = (value - zero_point) * scale.

    Shapes: values [rows, groups, columns / groups] u8, scales [rows, groups, 1] f16, zero_points
    [rows, groups, 1] u8.
    """

    values: npt.NDArray[np.uint8]
    scales: npt.NDArray[np.float16]
    zero_points: npt.NDArray[np.uint8]


def quantise(checkpoint: Checkpoint, name: str) -> QuantisedMatrix:
    """Quantise a matrix of the checkpoint in blocks of rows."""
    rows, columns = checkpoint.shape(name)
    groups = columns // GROUP_VALUES if columns % GROUP_VALUES == 0 else 1
    values = np.empty((rows, groups, columns // groups), np.uint8)
    scales, zero_points = (np.empty((rows, groups, 1), kind) for kind in (np.float16, np.uint8))
    step = max(1, BLOCK_VALUES // columns)
    for start in range(0, rows, step):
        part = slice(start, start + step)
        weights = checkpoint.read(name, part).reshape(values[part].shape)
        # The range includes 0, so that 0 is represented exactly.
        lowest = np.minimum(weights.min(-1, keepdims=True), 0)
        highest = np.maximum(weights.max(-1, keepdims=True), 0)
        scale = np.maximum((highest - lowest) / 255, SMALLEST_SCALE).astype(np.float16)
        inverse = 1 / scale.astype(np.float32)
        zero_point = np.clip(np.rint(-lowest * inverse), 0, 255)
        scales[part], zero_points[part] = scale, zero_point
        np.multiply(weights, inverse, out=weights)
        weights += zero_point
        values[part] = np.clip(np.rint(weights, out=weights), 0, 255, out=weights)
    return QuantisedMatrix(values, scales, zero_points)


class Constants:
    """Creates constants and keeps references to their arrays."""

    def __init__(self) -> None:
        self._arrays: list[npt.NDArray[np.generic]] = []

    def array(self, values: npt.NDArray[np.generic], name: str = "") -> ov.Node:
        """Return a constant that shares the array's memory."""
        values = np.ascontiguousarray(values)
        self._arrays.append(values)
        node = ops.constant(values, shared_memory=True)
        if name:
            node.friendly_name = name
        return node

    def ints(self, *values: int) -> ov.Node:
        """Return a vector of i64, for axes, shapes and bounds."""
        return ops.constant(np.array(values, np.int64))

    def scalar(self, value: float, rank: int = 0) -> ov.Node:
        """Return a f32 value of shape () or [1] * rank."""
        return ops.constant(np.full((1,) * rank, value, np.float32))


class Weights:
    """Reads tensors by their Hugging Face names and turns them into nodes."""

    def __init__(
        self, checkpoint: Checkpoint, weight_format: WeightFormat, constants: Constants
    ) -> None:
        self.checkpoint = checkpoint
        self.format = weight_format
        self.constants = constants

    def matrix(self, name: str, rows: int, columns: int) -> ov.Node:
        """Return a [rows, columns] weight as f32.

        The CPU plugin fuses the chain u8 → f16 → subtract → multiply → reshape → f32.

        Raises:
            ModelRefusedError: the tensor is missing, or its shape differs from that of config.json.
        """
        if self.checkpoint.shape(name) != (rows, columns):
            raise ModelRefusedError(
                f"{name} has shape {list(self.checkpoint.shape(name))}, "
                f"config.json implies [{rows}, {columns}]",
                field=name,
                reason="MISMATCH",
                limit=f"[{rows}, {columns}]",
            )
        if self.format is WeightFormat.F32:
            return self.constants.array(self.checkpoint.read(name), f"self.{name}")
        quantised = quantise(self.checkpoint, name)
        values = ops.convert(self.constants.array(quantised.values, f"self.{name}"), "f16")
        zero = ops.convert(
            self.constants.array(quantised.zero_points, f"self.{name}/zero_point"), "f16"
        )
        scale = self.constants.array(quantised.scales, f"self.{name}/scale")
        grouped = ops.multiply(ops.subtract(values, zero), scale)
        shape = self.constants.ints(rows, columns)
        return ops.convert(ops.reshape(grouped, shape, special_zero=False), "f32")

    def linear(self, x: ov.Node, name: str, inputs: int, outputs: int) -> ov.Node:
        """Map x [..., inputs] to [..., outputs], with the bias if the checkpoint has one."""
        y = ops.matmul(x, self.matrix(f"{name}.weight", outputs, inputs), False, True)
        # GenAI's LoRA finds linear layers by this name.
        y.friendly_name = f"__module.{name}/ov_ext::linear/MatMul"
        if f"{name}.bias" not in self.checkpoint:
            return y
        return ops.add(
            y, self.constants.array(self.checkpoint.read(f"{name}.bias").reshape(1, 1, -1))
        )

    def rms_norm(
        self, x: ov.Node, name: str, epsilon: float, offset: float, rank: int = 3
    ) -> ov.Node:
        """Apply the root-mean-square norm over the last axis.

        The factor is `offset` plus the stored weight (offset 1 for Gemma).
        """
        constants = self.constants
        squares = ops.power(x, constants.scalar(2.0, rank))
        mean = ops.reduce_mean(squares, constants.ints(-1), True)
        deviation = ops.sqrt(ops.add(mean, constants.scalar(epsilon, rank)))
        y = ops.multiply(x, ops.divide(constants.scalar(1.0, rank), deviation))
        weight = self.checkpoint.read(f"{name}.weight") + np.float32(offset)
        return ops.multiply(y, constants.array(weight.reshape((1,) * (rank - 1) + (-1,))))
