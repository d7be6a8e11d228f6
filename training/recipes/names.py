"""Names, defaults and limits that the arguments of commands share with the recipes.

Arguments are parsed before torch is imported, so they cannot import the recipes. A test compares
these names with the keys of the tables of the recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from training.errors import ConfigError

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
# Bytes of weights that a recipe of the loop trains; without a row, the hardware decides.
MAX_MODEL_BYTES: Mapping[str, int] = MappingProxyType({"nano": 64 << 20})


def check_model_size(recipe: str, model: Path, max_bytes: int | None = None) -> None:
    """Check that a recipe of the loop can train a model of this size.

    Args:
        model: directory with the weights in safetensors.
        max_bytes: limit of an adjusted recipe; None: that of MAX_MODEL_BYTES.

    Raises:
        ConfigError: the weights are larger than the recipe's limit.
    """
    limit = MAX_MODEL_BYTES.get(recipe) if max_bytes is None else max_bytes
    size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    if limit is not None and size > limit:
        raise ConfigError(
            f"recipe {recipe}: {model.name} has {size >> 20} MiB of weights, this recipe takes at "
            f"most {limit >> 20} MiB: use RECIPE=auto, or make up MODEL=nano",
            field="recipe",
            reason="TOO_LARGE",
            limit=f"{limit >> 20} MiB",
        )
