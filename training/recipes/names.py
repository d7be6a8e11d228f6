"""Names and defaults that the arguments of commands share with the recipes.

Arguments are parsed before torch is imported, so they cannot import the recipes. A test compares
these names with the keys of the tables of the recipes.
"""

from __future__ import annotations

AUTO = "auto"  # the loop's recipe for any model
LOOP_RECIPES = (AUTO, "nano", "small")
OPEN_MODELS = (
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
WORLD_BASES = ("nano", "llama", "qwen3")  # models of the toy world
RLVR_ALGORITHMS = ("grpo", "ppo")
