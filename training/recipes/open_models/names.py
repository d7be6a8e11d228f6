"""Names of the recipes for listings.

recipes.py imports the training code, which is slow; a test compares the two.
"""

from __future__ import annotations

NAMES = (
    "qwen3-0.6b-sft-grpo",
    "llama-3.1-8b-lora",
    "gemma-3-1b-sft-dpo",
    "llama-3.1-8b-full",
    "qwen3-8b-grpo",
    "qwen2.5-7b-sft-kto",
    "qwen3-32b-sft-dpo",
    "gemma-3-27b-sft",
    "llama-3.1-70b-sft",
)
