"""Architecture of a decoder, read from config.json and checked.

Unsupported fields raise an error that names the field. Hugging Face has three generations of these
files (rope_scaling, rope_local_base_freq, rope_parameters; layer_types or a window pattern). All
are converted to one representation for the graph.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from services.predictor.errors import ModelRefusedError

ChoiceT = TypeVar("ChoiceT", bound=StrEnum)
# Every 6th layer attends to all tokens (Gemma 3 report, and the default of transformers).
GEMMA3_WINDOW_PATTERN = 6


class Family(StrEnum):
    """Decoder families, named by config.json's model_type."""

    LLAMA = "llama"
    QWEN2 = "qwen2"
    QWEN3 = "qwen3"
    GEMMA3 = "gemma3_text"


class Activation(StrEnum):
    """Gate activations of the MLP in config.json."""

    SILU = "silu"
    GELU_TANH = "gelu_pytorch_tanh"


class AttentionKind(StrEnum):
    """Range of previous tokens that a layer attends to."""

    FULL = "full_attention"
    SLIDING = "sliding_attention"


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Llama 3's frequency-dependent rotary scaling (transformers, rope_type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of one attention kind; `linear_factor` divides all frequencies."""

    theta: float
    linear_factor: float = 1.0
    llama3: Llama3Scaling | None = None


@dataclass(frozen=True, slots=True)
class Architecture:
    """One dense decoder.

    `dtype` is the training type that the checkpoint states; empty if not stated. `tied` None means
    that the checkpoint decides by the presence of an output head.
    """

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_epsilon: float
    activation: Activation
    attention_scale: float
    layers: tuple[AttentionKind, ...]
    sliding_window: int
    ropes: Mapping[AttentionKind, Rope]
    tied: bool | None
    dtype: str

    @property
    def is_gemma(self) -> bool:
        """Return True for Gemma: scaled embeddings, norm weights plus one, four norms per layer."""
        return self.family is Family.GEMMA3


def load_architecture(directory: Path) -> Architecture:
    """Read and check config.json.

    Raises:
        ModelRefusedError: the file is missing or invalid; names the file or the field.
    """
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise ModelRefusedError(
            "config.json is missing", field="config.json", reason="MISSING"
        ) from error
    except ValueError as error:
        raise ModelRefusedError(
            "config.json is not JSON", field="config.json", reason="MALFORMED"
        ) from error
    if not isinstance(config, dict):
        raise ModelRefusedError(
            "config.json must be an object",
            field="config.json",
            reason="MALFORMED",
            limit="an object",
        )
    return read_architecture(config)


def read_architecture(config: Mapping[str, Any]) -> Architecture:
    """Read and check a parsed config.json.

    Raises:
        ModelRefusedError: a field is missing, out of range, or unsupported; the text names the
            field.
    """
    family = _choice(config, "model_type", Family)
    _reject_unsupported(config)
    num_heads, hidden_size = _count(config, "num_attention_heads"), _count(config, "hidden_size")
    head_dim = _count(config, "head_dim", hidden_size // num_heads)
    num_kv_heads = _count(config, "num_key_value_heads", num_heads)
    if num_heads % num_kv_heads or head_dim % 2:
        raise ModelRefusedError(
            "config.json: num_attention_heads must be a multiple of num_key_value_heads, "
            "and head_dim must be even",
            field="num_key_value_heads" if num_heads % num_kv_heads else "head_dim",
            reason="MISMATCH",
        )
    layers = _layer_kinds(config, family, _count(config, "num_hidden_layers"))
    scale_base = config.get("query_pre_attn_scalar") if family is Family.GEMMA3 else None
    activation_field = "hidden_activation" if config.get("hidden_activation") else "hidden_act"
    return Architecture(
        family=family,
        vocab_size=_count(config, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_count(config, "intermediate_size"),
        num_layers=len(layers),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_positions=_count(config, "max_position_embeddings"),
        norm_epsilon=_positive(config, "rms_norm_eps"),
        activation=_choice(config, activation_field, Activation),
        attention_scale=float(scale_base or head_dim) ** -0.5,
        layers=layers,
        sliding_window=_count(config, "sliding_window") if AttentionKind.SLIDING in layers else 0,
        ropes={kind: _rope(config, family, kind) for kind in sorted(set(layers))},
        tied=config.get("tie_word_embeddings", True if family is Family.GEMMA3 else None),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or ""),
    )


def _reject_unsupported(config: Mapping[str, Any]) -> None:
    for field in (
        "attn_logit_softcapping",
        "final_logit_softcapping",
        "use_bidirectional_attention",
        "quantization_config",
    ):
        if config.get(field):
            raise ModelRefusedError(
                f"config.json: {field} is not supported", field=field, reason="UNSUPPORTED"
            )
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        raise ModelRefusedError(
            "config.json: partial_rotary_factor other than 1 is not supported",
            field="partial_rotary_factor",
            reason="UNSUPPORTED",
            limit="1",
        )


def _count(config: Mapping[str, Any], field: str, default: int | None = None) -> int:
    value = config.get(field)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelRefusedError(
            f"config.json: {field} must be an integer of at least 1",
            field=field,
            reason="MISSING" if value is None else "OUT_OF_RANGE",
            limit="at least 1",
        )
    return value


def _positive(values: Mapping[str, Any], field: str, default: float | None = None) -> float:
    value = values.get(field)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise ModelRefusedError(
            f"config.json: {field} must be a number above 0",
            field=field,
            reason="MISSING" if value is None else "OUT_OF_RANGE",
            limit="above 0",
        )
    return float(value)


def _choice(config: Mapping[str, Any], field: str, choices: type[ChoiceT]) -> ChoiceT:
    value = config.get(field)
    if value not in set(choices):
        allowed = ", ".join(choices)
        raise ModelRefusedError(
            f"config.json: {field} must be one of {allowed}",
            field=field,
            reason="UNSUPPORTED",
            limit=allowed,
        )
    return choices(value)


def _layer_kinds(
    config: Mapping[str, Any], family: Family, num_layers: int
) -> tuple[AttentionKind, ...]:
    if family is Family.LLAMA or (
        family is not Family.GEMMA3 and not config.get("use_sliding_window")
    ):
        return (AttentionKind.FULL,) * num_layers
    named = config.get("layer_types")
    if named is None:
        if family is Family.GEMMA3:
            # The last layer of each pattern has full attention.
            pattern = int(
                config.get("sliding_window_pattern")
                or config.get("_sliding_window_pattern")
                or GEMMA3_WINDOW_PATTERN
            )
            full = {index for index in range(num_layers) if (index + 1) % pattern == 0}
        else:
            full = set(range(_count(config, "max_window_layers")))
        return tuple(
            AttentionKind.FULL if index in full else AttentionKind.SLIDING
            for index in range(num_layers)
        )
    if len(named) != num_layers or not set(named) <= set(AttentionKind):
        raise ModelRefusedError(
            f"config.json: layer_types must name {num_layers} layers, "
            f"each one of {', '.join(AttentionKind)}",
            field="layer_types",
            reason="MISMATCH",
            limit=f"{num_layers} of {', '.join(AttentionKind)}",
        )
    return tuple(AttentionKind(name) for name in named)


def _rope(config: Mapping[str, Any], family: Family, kind: AttentionKind) -> Rope:
    parameters: Mapping[str, Any] = config.get("rope_parameters") or {}
    if parameters:
        return _scaled(
            parameters.get(kind, parameters), "rope_parameters", config.get("rope_theta")
        )
    if family is Family.GEMMA3 and kind is AttentionKind.SLIDING:
        return Rope(theta=_positive(config, "rope_local_base_freq", 10_000.0))
    return _scaled(config.get("rope_scaling") or {}, "rope_scaling", config.get("rope_theta"))


def _scaled(values: Mapping[str, Any], field: str, theta: float | None) -> Rope:
    kind = values.get("rope_type") or values.get("type") or "default"
    theta = _positive(values, "rope_theta", theta or 10_000.0)
    if kind == "default":
        return Rope(theta)
    if kind == "linear":
        return Rope(theta, linear_factor=_positive(values, "factor"))
    if kind == "llama3":
        return Rope(
            theta,
            llama3=Llama3Scaling(
                factor=_positive(values, "factor"),
                low_freq_factor=_positive(values, "low_freq_factor"),
                high_freq_factor=_positive(values, "high_freq_factor"),
                original_positions=_count(values, "original_max_position_embeddings"),
            ),
        )
    raise ModelRefusedError(
        f"config.json: {field}.rope_type must be one of default, linear, llama3",
        field=f"{field}.rope_type",
        reason="UNSUPPORTED",
        limit="default, linear, llama3",
    )
