"""Rotary position embedding: settings in config.json, frequencies, and rotation of heads.

The layout is Hugging Face's half-split, always computed in fp32. Old files have rope_scaling and
rope_local_base_freq; new files have rope_parameters.

Shapes: B batch, T tokens, H heads, E head dimension.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.model.rope_config import (
    Rope,
)


def inverse_frequencies(rope: Rope, head_dim: int) -> Tensor:
    """Return the angles per position, [E/2].

    llama3 scaling follows Llama 3.1's reference code: only slow frequencies are stretched.
    """
    # On the CPU explicitly: models are built under the meta device.
    pairs = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu")
    frequencies = 1.0 / (rope.theta ** (pairs / head_dim))
    if rope.scaling == "default":
        return frequencies
    if rope.scaling == "linear":
        return frequencies / rope.factor
    wavelengths = 2 * math.pi / frequencies
    # Linear transition between slow and fast frequencies by wavelength.
    blend = (rope.original_positions / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    blend = blend.clamp(0.0, 1.0)  # 0 = slow, stretched by factor; 1 = fast, unchanged
    return (1 - blend) * frequencies / rope.factor + blend * frequencies


def rotation(positions_BT: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotation angles, each [B, 1, T, E]."""
    angles = positions_BT[:, None, :, None].float() * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x_BHTE: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate each pair (i, i + E/2) by its angle."""
    low, high = x_BHTE.float().chunk(2, dim=-1)
    rotated_BHTE = x_BHTE.float() * cosine + torch.cat((-high, low), dim=-1) * sine
    return rotated_BHTE.type_as(x_BHTE)
