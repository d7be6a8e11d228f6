"""Dequantisation of GGUF blocks to fp32 with numpy.

The layouts are ggml's (ggml-common.h, ggml-quants.c). N is the number of blocks; every function
takes [N, size_bytes] uint8 and returns [N, values] fp32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]


def _half(blocks: Bytes, at: int) -> Floats:
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)  # [N, 1]


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q5_0(blocks: Bytes) -> Floats:
    fifth_bits = (
        blocks[:, 2:6].copy().view(np.uint32) >> np.arange(32, dtype=np.uint32) & 1
    )  # [N, 32]
    # A byte holds value i in its low half and value i + 16 in its high half.
    low, high = blocks[:, 6:] & 0x0F, blocks[:, 6:] >> 4
    quants = np.concatenate([low, high], axis=1).astype(np.int8) | (fifth_bits << 4).astype(np.int8)
    return _half(blocks, 0) * (quants - 16).astype(np.float32)


def _q4_k(blocks: Bytes) -> Floats:
    # Twelve bytes hold eight 6-bit scales and minima. The upper two bits of the last four values
    # are stored in the bytes of the first four.
    scale_low, minimum_low, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale_high, minimum_high = scale_low >> 2 & 0x30, minimum_low >> 2 & 0x30
    scales = np.concatenate([scale_low & 0x3F, (rest & 0x0F) | scale_high], axis=1)  # [N, 8]
    minima = np.concatenate([minimum_low & 0x3F, (rest >> 4) | minimum_high], axis=1)  # [N, 8]
    # 128 bytes are four groups of 32; the low halves precede the high halves: [N, 4, 2, 32].
    pairs = (
        blocks[:, 16:].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
        & 0x0F
    )
    quants = pairs.reshape(-1, 8, 32).astype(np.float32)
    steps = _half(blocks, 0) * scales.astype(np.float32)
    offsets = _half(blocks, 2) * minima.astype(np.float32)
    return (steps[:, :, None] * quants - offsets[:, :, None]).reshape(-1, 256)


def _q6_k(blocks: Bytes) -> Floats:
    # Low four bits: two groups of 64 bytes, low halves first. High two bits: two groups of 32 bytes
    # with four values per byte. Both yield 256 values in the same order.
    low = (
        blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
        & 0x0F
    )
    high = (
        blocks[:, 128:192].reshape(-1, 2, 1, 32)
        >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
        & 0x03
    )
    quants = (low.reshape(-1, 256) | (high.reshape(-1, 256) << 4)).astype(np.int8) - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)  # [N, 16]
    return (scales[:, :, None] * quants.reshape(-1, 16, 16).astype(np.float32)).reshape(-1, 256)


@dataclass(frozen=True)
class Block:
    """A quantisation format: number of values and bytes per block, and the decoder."""

    values: int
    size_bytes: int
    decode: Callable[[Bytes], Floats]


# Formats by ggml_type, limited to those in Q4_K_M files of small models.
BLOCKS = {
    0: Block(1, 4, lambda blocks: blocks.copy().view(np.float32)),
    1: Block(1, 2, lambda blocks: blocks.copy().view(np.float16).astype(np.float32)),
    6: Block(32, 22, _q5_0),
    8: Block(32, 34, _q8_0),
    12: Block(256, 144, _q4_k),
    14: Block(256, 210, _q6_k),
}


def dequantise(raw: Bytes, block_type: int) -> Floats:
    """Decode the raw bytes of a tensor into flat fp32 values."""
    block = BLOCKS[block_type]
    return block.decode(raw.reshape(-1, block.size_bytes)).reshape(-1)
