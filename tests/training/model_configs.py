"""Configs of tiny models that the product reads and never writes."""

from typing import Any


def gpt2_json(
    vocab_size: int, hidden_size: int, num_layers: int, num_heads: int, max_positions: int = 1024
) -> dict[str, Any]:
    """Return config.json of a GPT-2-shaped decoder with tied embeddings and without dropout."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": vocab_size,
        "n_embd": hidden_size,
        "n_inner": 4 * hidden_size,
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
