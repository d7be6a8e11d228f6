"""Tiny random checkpoints of every family, written by transformers.

The parity tests compare with transformers as the reference.
"""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

SPREAD = 0.22  # of matrices; smaller values let greedy decoding loop immediately
EMBEDDING_SPREAD = 1.0

COMMON: dict[str, Any] = {
    "vocab_size": 384,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def llama(**changes: Any) -> transformers.PreTrainedModel:
    """Return a Llama, with tied embeddings by default."""
    config = transformers.LlamaConfig(**{**COMMON, "tie_word_embeddings": True, **changes})
    return spread(transformers.LlamaForCausalLM(config))


def qwen2(**changes: Any) -> transformers.PreTrainedModel:
    """Return a Qwen 2, with biases on queries, keys and values."""
    return spread(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**{**COMMON, **changes})))


def qwen3(**changes: Any) -> transformers.PreTrainedModel:
    """Return a Qwen 3, with norms on queries and keys."""
    return spread(transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**{**COMMON, **changes})))


def gemma3(**changes: Any) -> transformers.PreTrainedModel:
    """Return a Gemma 3 with one sliding and one full layer, and a window of 24 tokens."""
    own = {
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 24,
        "query_pre_attn_scalar": 16,
        "tie_word_embeddings": True,
    }
    config = transformers.Gemma3TextConfig(**{**COMMON, **own, **changes})
    # A small spread, since the tied head repeats tokens unless the four norms outweigh it.
    return spread(transformers.Gemma3ForCausalLM(config), EMBEDDING_SPREAD / 64)


def spread(
    model: transformers.PreTrainedModel, embedding: float = EMBEDDING_SPREAD
) -> transformers.PreTrainedModel:
    """Set every parameter to values in which any mistake shows."""
    return reseed(model, 7, embedding)


def reseed(
    model: transformers.PreTrainedModel, seed: int, embedding: float = EMBEDDING_SPREAD
) -> transformers.PreTrainedModel:
    """Set every parameter from this seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                wide = embedding if "embed" in name or "lm_head" in name else SPREAD
                parameter.normal_(0.0, wide, generator=generator)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.5, generator=generator)
            else:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.float().eval()


def save(model: transformers.PreTrainedModel, directory: Path, **options: Any) -> Path:
    """Write config.json and safetensors with transformers."""
    model.save_pretrained(directory, **options)
    return directory


def edit_config(directory: Path, **changes: Any) -> None:
    """Change fields of config.json; None removes a field."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
