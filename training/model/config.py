"""Decoder description read from a Hugging Face config.json, and settings of adapters.

One frozen description covers GPT-2, Llama, Qwen 2/3 and Gemma 3. Every difference between the
families is a field, so the transformer reads fields and never a family name. Unsupported features
are refused by field. Dropout is ignored instead of refused: the rates in GPT-2's files concern
training and do not affect the function of the weights.

Light commands import this module, so it does not import torch.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from training.errors import ConfigError
from training.model.fields import (
    FAMILIES,
    MAX_LAYERS,
    Fields,
    ModelConfigError,
    check_model_directory,
    read_object,
)
from training.model.rope_config import SLIDING, Rope, layer_kinds, read_rope
from training.model.tensor_files import WEIGHTS, CheckpointError, stored_type, weight_files
from training.runtime.ranges import Choices, Count, Positive, check_fields

DTYPES = ("float32", "bfloat16", "float16")
REWARD_SETTINGS = "reward_model.json"  # in the directory of a reward model
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "wte.weight")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NOT_BUILT = (
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "use_bidirectional_attention",
    "quantization_config",
    "add_cross_attention",
    "scale_attn_by_inverse_layer_idx",
)


@dataclass(frozen=True)
class ModelConfig:
    """Shape of one decoder. `raw` is config.json as read, written back unchanged on saving."""

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layer_norm: bool  # LayerNorm with mean and bias (GPT-2), else RMSNorm
    norm_eps: float
    norm_offset: float  # Gemma stores w - 1
    tie_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sandwich_norms: bool
    gated_mlp: bool
    gelu: bool  # tanh approximation, else SiLU
    attention_scale: float
    embedding_scale: float
    windows: tuple[int | None, ...]  # per layer: attended tokens, None = unlimited
    ropes: tuple[Rope | None, ...]  # per layer, None = no rotation
    learned_positions: bool
    max_positions: int  # hard limit with learned positions, else the training length
    initializer_range: float
    raw: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True)
class LoraConfig:
    """Settings of the adapters on the target projections.

    Attributes:
        rank: inner dimension of the adapter matrices, at least 1; higher ranks can learn more
        alpha: scale of the update, as alpha / rank; above 0
        targets: projections with an adapter, comma-separated: q_proj, k_proj, v_proj, o_proj,
            gate_proj, up_proj, down_proj
        served_rank: highest rank of the adapter against the first model of a chain of adapters,
            at least 1; vLLM serves the version with it (base_adapter/)
    """

    rank: Count = 8
    alpha: Positive = 16.0
    targets: tuple[Annotated[str, Choices(PROJECTIONS)], ...] = PROJECTIONS
    served_rank: Count = 64

    def __post_init__(self) -> None:
        check_fields(self)


def read_config(directory: Path) -> ModelConfig:
    """Return the config.json of a model directory.

    Without a dtype, the stored type of the embedding is used.

    Raises:
        ModelConfigError: the file is missing, invalid, or describes an unsupported model; names the
            field.
        CheckpointError: there is no dtype, and the weights cannot be read.
    """
    raw = read_object(directory / "config.json")
    if not (raw.get("dtype") or raw.get("torch_dtype")):
        stored = (stored_type(file, EMBEDDINGS) for file in weight_files(directory))
        raw["dtype"] = next((name for name in stored if name is not None), None)
        if raw["dtype"] is None:
            raise CheckpointError(
                f"{WEIGHTS}: {EMBEDDINGS[0]} is missing", field=EMBEDDINGS[0], reason="MISSING"
            )
    return parse_config(raw)


def read_language_model(directory: Path, field: str, with_weights: bool = True) -> ModelConfig:
    """Return the config of a model that generates text, after a check that no file is missing.

    Args:
        field: option or argument of the directory.
        with_weights: False: the command is finished already, so weights may be missing.

    Raises:
        ConfigError: there is no such directory, or it contains a reward model.
        ModelConfigError, CheckpointError: as `read_config`, or a file of the weights is missing.
    """
    check_model_directory(directory, field)
    if (directory / REWARD_SETTINGS).exists():
        raise ConfigError(
            f"{field}: {directory} is a reward model, not a language model",
            field=field,
            reason="MISMATCH",
        )
    config = read_config(directory)
    if with_weights:
        weight_files(directory)
    return config


def parse_config(raw: Mapping[str, Any]) -> ModelConfig:
    """Convert config.json to a ModelConfig.

    Raises:
        ModelConfigError: a field is missing, out of range, or unsupported; names the field.
    """
    fields = Fields(raw)
    family = fields.one_of("model_type", FAMILIES)
    fields.refuse(*NOT_BUILT)
    stored_dtype(raw)
    return _learned(fields, family) if family == "gpt2" else _rotary(fields, family)


def _learned(fields: Fields, family: str) -> ModelConfig:
    """Parse a GPT-2 config, which has its own field names."""
    # Both names denote the same function.
    fields.one_of("activation_function", ("gelu_new", "gelu_pytorch_tanh"), "gelu_new")
    hidden_size, heads = fields.count("n_embd"), fields.count("n_head")
    if hidden_size % heads:
        raise ModelConfigError(
            f"n_embd: {hidden_size} is not a multiple of n_head, {heads}",
            field="n_embd",
            reason="MISMATCH",
            limit=f"a multiple of {heads}",
        )
    layers = fields.count("n_layer", maximum=MAX_LAYERS)
    scaled = fields.flag("scale_attn_weights", True)
    return ModelConfig(
        family=family,
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.count("n_inner", 4 * hidden_size),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden_size // heads,
        layer_norm=True,
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        norm_offset=0.0,
        tie_embeddings=fields.flag("tie_word_embeddings", True),
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        qk_norm=False,
        sandwich_norms=False,
        gated_mlp=False,
        gelu=True,
        attention_scale=(hidden_size // heads) ** -0.5 if scaled else 1.0,
        embedding_scale=1.0,
        windows=(None,) * layers,
        ropes=(None,) * layers,
        learned_positions=True,
        max_positions=fields.count("n_positions"),
        initializer_range=fields.number("initializer_range", 0.02),
        raw=dict(fields.values),
    )


def _rotary(fields: Fields, family: str) -> ModelConfig:
    """Parse a config of Llama, Qwen 2/3 or Gemma 3."""
    gemma = family == "gemma3_text"
    activation = "gelu_pytorch_tanh" if gemma else "silu"
    activation_field = (
        "hidden_activation" if fields.values.get("hidden_activation") else "hidden_act"
    )
    fields.one_of(activation_field, (activation,), activation)
    hidden_size, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    # Gemma's default differs from the head count, so the field is required there.
    kv_heads = fields.count("num_key_value_heads", None if gemma else heads)
    head_dim = fields.count("head_dim", 256 if gemma else max(1, hidden_size // heads))
    if heads % kv_heads:
        raise ModelConfigError(
            f"num_attention_heads: {heads} is not a multiple of num_key_value_heads, {kv_heads}",
            field="num_attention_heads",
            reason="MISMATCH",
            limit=f"a multiple of {kv_heads}",
        )
    if head_dim % 2:
        raise ModelConfigError(
            f"head_dim: {head_dim} is odd, but rotary embedding needs pairs",
            field="head_dim",
            reason="MISMATCH",
            limit="even",
        )
    kinds = layer_kinds(fields, family)
    attention_bias = fields.flag("attention_bias", False)
    return ModelConfig(
        family=family,
        vocab_size=fields.count("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.count("intermediate_size"),
        num_layers=len(kinds),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        layer_norm=False,
        norm_eps=fields.number("rms_norm_eps", 1e-6),
        norm_offset=1.0 if gemma else 0.0,
        tie_embeddings=fields.flag("tie_word_embeddings", gemma),
        qkv_bias=family == "qwen2" or attention_bias,
        output_bias=family != "qwen2" and attention_bias,
        mlp_bias=family == "llama" and fields.flag("mlp_bias", False),
        qk_norm=family in ("qwen3", "gemma3_text"),
        sandwich_norms=gemma,
        gated_mlp=True,
        gelu=gemma,
        attention_scale=(fields.number("query_pre_attn_scalar", 256) if gemma else head_dim)
        ** -0.5,
        embedding_scale=_embedding_scale(fields.values, hidden_size) if gemma else 1.0,
        windows=tuple(
            fields.count("sliding_window") if kind == SLIDING else None for kind in kinds
        ),
        ropes=tuple(read_rope(fields, family, kind) for kind in kinds),
        learned_positions=False,
        max_positions=fields.count("max_position_embeddings", 131_072 if gemma else 2048),
        initializer_range=fields.number("initializer_range", 0.02),
        raw=dict(fields.values),
    )


def stored_dtype(raw: Mapping[str, Any]) -> str:
    """Return the name of the weight type in config.json, float32 by default.

    Raises:
        ModelConfigError: the type is not float32, bfloat16 or float16.
    """
    name = raw.get("dtype") or raw.get("torch_dtype") or "float32"
    if name not in DTYPES:
        raise ModelConfigError(
            f"dtype: {name!r} is not one of {', '.join(DTYPES)}",
            field="dtype",
            reason="UNKNOWN",
            limit=", ".join(DTYPES),
        )
    return str(name)


def llama_json(
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    intermediate_size: int,
) -> dict[str, Any]:
    """Return config.json of a Llama-shaped decoder with tied embeddings, for pre-training."""
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


def gpt2_json(
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    max_positions: int = 1024,
    intermediate_size: int | None = None,
) -> dict[str, Any]:
    """Return config.json of a GPT-2-shaped decoder with tied embeddings and without dropout."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_embd": hidden_size,
        "n_inner": 4 * hidden_size if intermediate_size is None else intermediate_size,
        "n_layer": num_layers,
        "n_head": num_heads,
        "n_positions": max_positions,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "dtype": "float32",
    }


def _embedding_scale(raw: Mapping[str, Any], hidden_size: int) -> float:
    """Return sqrt(d) rounded to the weight type: 25.25 (not 25.298) for the bf16 Gemma-3-270M.

    The model server also rounds by config.json's dtype, independent of its compute type; both must
    agree (docs/decisions/predictor.md).
    """
    scale, dtype = math.sqrt(hidden_size), stored_dtype(raw)
    if dtype == "bfloat16":  # the upper half of a float32, rounded to even
        (bits,) = struct.unpack("<I", struct.pack("<f", scale))
        bits = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        return float(struct.unpack("<f", struct.pack("<I", bits))[0])
    kind = "<e" if dtype == "float16" else "<f"
    return float(struct.unpack(kind, struct.pack(kind, scale))[0])
