"""Prompts of random tokens, and the tolerance for their logits."""

import numpy as np

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "INFERENCE_NUM_THREADS": 1}
PROMPT_TOKENS = 70  # above Gemma's window of 24 and llama3's original 32 positions


def prompt(seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 384, PROMPT_TOKENS)]
