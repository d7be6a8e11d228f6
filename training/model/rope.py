"""Rotary position embedding: settings in config.json, frequencies, and rotation of heads.

The layout is Hugging Face's half-split, always computed in fp32. Old files have rope_scaling and
rope_local_base_freq; new files have rope_parameters.

Shapes: B batch, T tokens, H heads, E head dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.model.fields import Fields, ModelConfigError

GEMMA_LOCAL_THETA, GEMMA_GLOBAL_THETA, DEFAULT_THETA = 10_000.0, 1_000_000.0, 10_000.0
FULL, SLIDING = "full_attention", "sliding_attention"  # kinds of layers
SCALINGS = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Rope:
    """Rotary frequencies of a layer. `scaling` is Hugging Face's: default, linear or llama3."""

    theta: float
    scaling: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192


def read_rope(fields: Fields, family: str, kind: str) -> Rope:
    """Return the rotation of layers of a kind.

    Raises:
        ModelConfigError: the scaling is unsupported or lacks its numbers.
    """
    local = family == "gemma3_text" and kind == SLIDING
    if local:
        theta = fields.number("rope_local_base_freq", GEMMA_LOCAL_THETA)
    else:
        theta = fields.number(
            "rope_theta", GEMMA_GLOBAL_THETA if family == "gemma3_text" else DEFAULT_THETA
        )
    given = fields.inside("rope_parameters")
    if given is None:
        given = Fields({}) if local else fields.inside("rope_scaling") or Fields({})
    elif family == "gemma3_text":
        given = given.inside(kind) or Fields({})
    for place in (fields, given):
        if place.number("partial_rotary_factor", 1.0) != 1.0:
            raise ModelConfigError(
                "partial_rotary_factor: only whole heads are rotated",
                field="partial_rotary_factor",
                reason="UNSUPPORTED",
                limit="1",
            )
    theta = given.number("rope_theta", theta)
    scaling = given.one_of(
        "rope_type" if given.values.get("rope_type") else "type", SCALINGS, "default"
    )
    if scaling == "default":
        return Rope(theta)
    factor = given.number("factor")
    if scaling == "linear":
        return Rope(theta, scaling, factor)
    low, high = given.number("low_freq_factor"), given.number("high_freq_factor")
    if high <= low:
        raise ModelConfigError(
            f"high_freq_factor: {high:g} is not above low_freq_factor, {low:g}",
            field="high_freq_factor",
            reason="OUT_OF_RANGE",
            limit=f"above {low:g}",
        )
    return Rope(theta, scaling, factor, low, high, given.count("original_max_position_embeddings"))


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
