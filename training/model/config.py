"""What a decoder looks like, read from a Hugging Face config.json.

One frozen description covers Llama, Qwen 2/3 and Gemma 3: every difference between the families is a field here, so the
transformer asks for fields and never for a family's name. Unknown families and unknown rope scalings are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")
GEMMA_GLOBAL_EVERY = 6  # every sixth layer is global where config.json does not list layer_types (Gemma 3 report)
GEMMA_LOCAL_THETA = 10_000.0
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ModelConfigError(ValueError):
    """config.json describes something that this library does not build; the text names the field."""


@dataclass(frozen=True)
class Rope:
    """Rotary frequencies of a layer. `scaling` is Hugging Face's: default, linear or llama3."""

    theta: float
    scaling: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192


@dataclass(frozen=True)
class ModelConfig:
    """The shape of one decoder. `raw` is config.json as read: what is saved again, so that nothing is lost."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    norm_offset: float  # Gemma stores w - 1
    tie_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sandwich_norms: bool
    gelu: bool
    attention_scale: float
    embedding_scale: float
    windows: tuple[int | None, ...]  # per layer: attended tokens, None = all
    ropes: tuple[Rope, ...]  # per layer
    max_positions: int
    initializer_range: float
    raw: Mapping[str, Any]


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """config.json to a ModelConfig.

    Raises:
        ModelConfigError: the family, the activation, a soft cap or the rope scaling is not one that we build.
    """
    family = raw.get("model_type")
    if family not in FAMILIES:
        raise ModelConfigError(f"model_type: {family!r} is not one of {', '.join(FAMILIES)}")
    _refuse_unsupported(raw)
    gemma = family == "gemma3_text"
    head_dim = raw.get("head_dim") or (256 if gemma else raw["hidden_size"] // raw["num_attention_heads"])
    layer_types = _layer_types(raw, gemma)
    return ModelConfig(
        family=family,
        vocab_size=raw["vocab_size"],
        hidden_size=raw["hidden_size"],
        intermediate_size=raw["intermediate_size"],
        num_layers=raw["num_hidden_layers"],
        num_heads=raw["num_attention_heads"],
        num_kv_heads=raw.get("num_key_value_heads") or raw["num_attention_heads"],
        head_dim=head_dim,
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        norm_offset=1.0 if gemma else 0.0,
        tie_embeddings=raw.get("tie_word_embeddings", gemma),
        qkv_bias=family == "qwen2" or raw.get("attention_bias", False),
        output_bias=family != "qwen2" and raw.get("attention_bias", False),
        mlp_bias=raw.get("mlp_bias", False),
        qk_norm=family in ("qwen3", "gemma3_text"),
        sandwich_norms=gemma,
        gelu=gemma,
        attention_scale=(raw.get("query_pre_attn_scalar", 256) if gemma else head_dim) ** -0.5,
        embedding_scale=_embedding_scale(raw) if gemma else 1.0,
        windows=tuple(raw.get("sliding_window") if t == "sliding_attention" else None for t in layer_types),
        ropes=tuple(_rope(raw, layer_type) for layer_type in layer_types),
        max_positions=raw.get("max_position_embeddings", 131_072 if gemma else 2048),
        initializer_range=raw.get("initializer_range", 0.02),
        raw=dict(raw),
    )


def stored_dtype(raw: Mapping[str, Any]) -> torch.dtype:
    """The type that config.json says the weights have; float32 where it says nothing."""
    return DTYPES[raw.get("dtype") or raw.get("torch_dtype") or "float32"]


def llama_json(
    vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, num_kv_heads: int, intermediate_size: int
) -> dict[str, Any]:
    """config.json of a small Llama-shaped decoder with tied embeddings, as our own pre-training makes it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "head_dim": hidden_size // num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "max_position_embeddings": 2048,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "float32",
    }


def _refuse_unsupported(raw: Mapping[str, Any]) -> None:
    activation = raw.get("hidden_activation") or raw.get("hidden_act") or "silu"
    wanted = "gelu_pytorch_tanh" if raw["model_type"] == "gemma3_text" else "silu"
    if activation != wanted:
        raise ModelConfigError(f"hidden_act: {activation!r}, only {wanted} is built for {raw['model_type']}")
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if raw.get(cap) is not None:
            raise ModelConfigError(f"{cap}: soft capping is not built")
    if raw.get("use_bidirectional_attention"):
        raise ModelConfigError("use_bidirectional_attention: only causal decoders are built")


def _embedding_scale(raw: Mapping[str, Any]) -> float:
    """sqrt(d), rounded as the weights' own type rounds it: 25.25 (not 25.298) for the bf16 Gemma-3-270M.

    The model server follows config.json's dtype too, whatever it computes in; both must agree
    (docs/decisions/2026-11-24-predictor-embedding-scale.md).
    """
    dtype = stored_dtype(raw)
    return float(torch.tensor(math.sqrt(raw["hidden_size"]), dtype=dtype))


def _layer_types(raw: Mapping[str, Any], gemma: bool) -> list[str]:
    count = raw["num_hidden_layers"]
    if raw.get("layer_types"):
        return list(raw["layer_types"])
    if gemma:
        every = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or GEMMA_GLOBAL_EVERY
        return ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(count)]
    if raw.get("use_sliding_window") and raw.get("sliding_window"):
        first = raw.get("max_window_layers", count)
        return ["sliding_attention" if i >= first else "full_attention" for i in range(count)]
    return ["full_attention"] * count


def _rope(raw: Mapping[str, Any], layer_type: str) -> Rope:
    """Both spellings: rope_parameters (transformers 5) and rope_theta + rope_scaling + rope_local_base_freq."""
    if raw.get("rope_parameters"):
        parameters = raw["rope_parameters"]
        parameters = parameters.get(layer_type, parameters)
    else:
        parameters = dict(raw.get("rope_scaling") or {})
        gemma = raw["model_type"] == "gemma3_text"
        parameters["rope_theta"] = raw.get("rope_theta", 1_000_000.0 if gemma else 10_000.0)
        if gemma and layer_type == "sliding_attention":
            parameters = {"rope_theta": raw.get("rope_local_base_freq", GEMMA_LOCAL_THETA)}
    scaling = parameters.get("rope_type", parameters.get("type", "default"))
    if scaling not in ("default", "linear", "llama3"):
        raise ModelConfigError(f"rope_type: {scaling!r} is not one of default, linear, llama3")
    return Rope(
        theta=float(parameters.get("rope_theta", raw.get("rope_theta", 10_000.0))),
        scaling=scaling,
        factor=float(parameters.get("factor", 1.0)),
        low_freq_factor=float(parameters.get("low_freq_factor", 1.0)),
        high_freq_factor=float(parameters.get("high_freq_factor", 4.0)),
        original_positions=int(parameters.get("original_max_position_embeddings", 8192)),
    )
