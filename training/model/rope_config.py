"""Settings of rotary position embeddings in config.json.

Old files have rope_scaling and rope_local_base_freq; new files have rope_parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

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
