"""Tiny random models of every family, saved by transformers as the oracle's own files."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.utils import logging

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # large weights, so that greedy decoding does not loop
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
GPT2_SIZES = {
    "vocab_size": 97,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GEMMA_SIZES = {
    **SIZES,
    "num_hidden_layers": 7,
    "head_dim": 16,
    "sliding_window": 6,
    "query_pre_attn_scalar": 16,
}
CONFIGS = {
    "gpt2": lambda: GPT2Config(**GPT2_SIZES),
    "gpt2_untied": lambda: GPT2Config(
        **GPT2_SIZES,
        n_inner=40,
        tie_word_embeddings=False,
        scale_attn_weights=False,
        activation_function="gelu_pytorch_tanh",
    ),
    "llama": lambda: LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama3_rope": lambda: LlamaConfig(
        **SIZES, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE
    ),
    "linear_rope": lambda: LlamaConfig(
        **SIZES,
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        mlp_bias=True,
    ),
    "llama_bias": lambda: LlamaConfig(**SIZES, attention_bias=True),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=16),
    "qwen2_sliding": lambda: Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=6, max_window_layers=1
    ),
    "qwen3_tied": lambda: Qwen3Config(
        **SIZES, head_dim=8, attention_bias=True, tie_word_embeddings=True
    ),
    "gemma3": lambda: Gemma3TextConfig(**GEMMA_SIZES),
    "gemma3_untied": lambda: Gemma3TextConfig(**GEMMA_SIZES, tie_word_embeddings=False),
}


def oracle(family: str, directory: Path) -> PreTrainedModel:
    """Save a random model of the family under `directory` and return it in eval mode.

    Norms and biases are random too.
    """
    logging.disable_progress_bar()
    torch.manual_seed(hash_free_seed(family))
    config = CONFIGS[family]()
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for name, parameter in model.named_parameters():
        if any(norm in name for norm in ("norm", "ln_")) or name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0.5, 0.2)
    model.save_pretrained(directory)
    return model.eval()


def hash_free_seed(family: str) -> int:
    return sum(family.encode())
