"""Models that the recipe `auto` trains."""

from __future__ import annotations

from pathlib import Path

from training.errors import ConfigError
from training.model.config import ModelConfig, read_config
from training.model.fields import read_object

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3_text")
# Endings of the names of quantised models.
QUANTISED = ("-awq", "-gptq", "-fp8", "-int4", "-int8", "-4bit", "-8bit", "-w4a16", "-w8a8")


def read_model(directory: Path) -> ModelConfig:
    """Return the shape of a model that `auto` trains.

    Raises:
        ConfigError: the weights are quantised, or the family is not one of FAMILIES.
        ModelConfigError: config.json is missing or invalid.
    """
    raw = read_object(directory / "config.json")
    if quantised := raw.get("quantization_config"):
        method = quantised.get("quant_method", "") if isinstance(quantised, dict) else ""
        raise ConfigError(
            f"quantization_config: the weights of {directory.name} are quantised ({method or '?'}) "
            "and have no gradients; serve and train the model that they were quantised from, "
            f"{plain_name(str(raw.get('_name_or_path') or directory.name))} in bf16, and quantise "
            "a promoted version for serving",
            field="quantization_config",
            reason="UNSUPPORTED",
            limit="bfloat16, float16, float32",
        )
    if (family := raw.get("model_type")) not in FAMILIES:
        advice = {
            "gpt2": "; its 1,024 learned positions hold no conversation, and the predictor does "
            "not serve it. The commands of single stages train it",
            "gemma3": "; this is Gemma 3 with its image encoder. Export the text decoder "
            "(Gemma3ForCausalLM, model_type gemma3_text)",
        }.get(str(family), "")
        raise ConfigError(
            f"model_type: {family!r} is not one of {', '.join(FAMILIES)}{advice}",
            field="model_type",
            reason="UNSUPPORTED",
            limit=", ".join(FAMILIES),
        )
    return read_config(directory)


def plain_name(name: str) -> str:
    """Return a model's name without the suffix of its quantisation."""
    lowered = name.lower()
    for suffix in QUANTISED:
        if suffix in lowered:
            return name[: lowered.index(suffix)]
    return f"the unquantised {name}"
