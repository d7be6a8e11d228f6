"""Kinds of layers and settings of rotary position embeddings in config.json.

Old files have rope_scaling and rope_local_base_freq; new files have rope_parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.model.fields import MAX_LAYERS, Fields, ModelConfigError

GEMMA_LOCAL_THETA, GEMMA_GLOBAL_THETA, DEFAULT_THETA = 10_000.0, 1_000_000.0, 10_000.0
FULL, SLIDING = "full_attention", "sliding_attention"  # kinds of layers
SCALINGS = ("default", "linear", "llama3")
# Without layer_types, every sixth layer of Gemma 3 is global (Gemma 3 report).
GEMMA_GLOBAL_EVERY = 6


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


def layer_kinds(fields: Fields, family: str) -> list[str]:
    """Return FULL or SLIDING for each layer.

    Old files have a window pattern; new files have layer_types.

    Raises:
        ModelConfigError: layer_types has sliding layers, but the family or use_sliding_window
            excludes them.
    """
    count = fields.count("num_hidden_layers", maximum=MAX_LAYERS)
    slides = family == "gemma3_text" or (
        family != "llama" and fields.flag("use_sliding_window", False)
    )
    named = fields.values.get("layer_types")
    if named is None:
        return _kinds_by_pattern(fields, family, count) if slides else [FULL] * count
    if (
        not isinstance(named, list)
        or len(named) != count
        or not all(kind in (FULL, SLIDING) for kind in named)
    ):
        raise ModelConfigError(
            f"layer_types: must name {count} layers, each {FULL} or {SLIDING}",
            field="layer_types",
            reason="MISMATCH",
            limit=f"{FULL}, {SLIDING}",
        )
    if SLIDING in named and not slides:
        raise ModelConfigError(
            f"layer_types: {SLIDING} needs use_sliding_window and is unsupported for some"
            f" families (model_type: {family})",
            field="layer_types",
            reason="CONFLICT",
            limit=FULL,
        )
    return named


def _kinds_by_pattern(fields: Fields, family: str, count: int) -> list[str]:
    """Return the kinds of a file without layer_types: a period (Gemma 3) or a first layer."""
    if family == "gemma3_text":
        pattern = "sliding_window_pattern"
        every = fields.count(
            pattern if fields.values.get(pattern) else f"_{pattern}", GEMMA_GLOBAL_EVERY
        )
        return [FULL if (layer + 1) % every == 0 else SLIDING for layer in range(count)]
    if not fields.values.get("sliding_window"):
        return [FULL] * count
    first = fields.values.get("max_window_layers")
    if not isinstance(first, int):
        raise ModelConfigError(
            f"max_window_layers: {first!r} is not the number of a layer",
            field="max_window_layers",
            reason="WRONG_TYPE",
        )
    return [SLIDING if layer >= first else FULL for layer in range(count)]
