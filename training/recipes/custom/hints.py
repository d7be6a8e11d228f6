"""Errors on unknown config fields, with the field that the user may have meant.

The fields of other libraries are those of transformers' TrainingArguments, TRL, PEFT and nanochat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from training.errors import ConfigError

ALIASES = {"lr": "learning_rate"}  # accepted; only the second name is documented
MOST_LISTED = 20  # fields in an error
# A stage has one of these fields, which sets its length.
LENGTHS = ("steps", "epochs", "updates")
CONVERSIONS = {  # from the length that was given to the one of the stage
    ("steps", "epochs"): "epochs = steps * {batch} / rows of the data",
    ("updates", "epochs"): "epochs = updates * {batch} / rows of the data",
    ("epochs", "steps"): "steps = epochs * tokens of the texts / (batch_rows * context_tokens)",
    ("updates", "steps"): "steps = updates",
    ("epochs", "updates"): "updates = epochs * prompts of the data / prompts_per_update",
    ("steps", "updates"): (
        "updates = steps * minibatch_rows / "
        "(epochs_per_update * prompts_per_update * samples_per_prompt)"
    ),
}
OTHER_LIBRARIES: Mapping[str, Sequence[str]] = {
    "max_steps": ("steps",),
    "num_iterations": ("steps",),
    "num_train_epochs": ("epochs",),
    "num_epochs": ("epochs",),
    "batch_size": ("batch_rows", "batch_pairs", "prompts_per_update"),
    "per_device_train_batch_size": ("microbatch_rows", "microbatch_pairs", "minibatch_rows"),
    "device_batch_size": ("microbatch_rows", "microbatch_pairs", "minibatch_rows"),
    "max_length": ("max_tokens", "context_tokens"),
    "max_seq_length": ("max_tokens", "context_tokens"),
    "block_size": ("context_tokens",),
    "max_prompt_length": ("max_prompt_tokens",),
    "max_completion_length": ("max_response_tokens",),
    "num_generations": ("samples_per_prompt",),
    "gradient_checkpointing": ("checkpoint_activations",),
    "save_steps": ("checkpoint_every_steps", "checkpoint_every_updates"),
    "eval_steps": ("evaluate_every_steps",),
    "max_grad_norm": ("optimizer.gradient_clip", "policy_optimizer.gradient_clip"),
    "warmup_ratio": ("optimizer.warmup_fraction", "policy_optimizer.warmup_fraction"),
    "lr_scheduler_type": ("optimizer.schedule", "policy_optimizer.schedule"),
    "optim": ("optimizer.algorithm", "policy_optimizer.algorithm"),
    "muon_momentum": ("optimizer.momentum", "policy_optimizer.momentum"),
    "bf16": ("machine.dtype",),
    "use_peft": ("lora.rank",),
    "lora_r": ("lora.rank",),
    "lora_alpha": ("lora.alpha",),
    "lora_target_modules": ("lora.targets",),
}


def unknown_field(name: str, beside: Sequence[str], everywhere: Sequence[str]) -> ConfigError:
    """Return the error for a field that the config does not have.

    Args:
        name: the given field, with the names of its parts.
        beside: fields of the same part of the config, listed if none is alike.
        everywhere: all fields of the config.
    """
    known = ", ".join(beside)
    if length := _length_text(name, everywhere):
        hint = length
    elif found := _alike(name, beside, everywhere):
        hint = f"did you mean {' or '.join(found)}?"
    elif len(beside) > MOST_LISTED:
        hint = f"`thumbwheel train STAGE --help` lists the {len(beside)} fields"
    else:
        hint = f"known fields: {known}"
    return ConfigError(
        f"{name}: unknown field; {hint}",
        field=name,
        reason="UNKNOWN",
        limit=known,
    )


def _length_text(name: str, everywhere: Sequence[str]) -> str:
    """Return how to convert a length into the one of the stage; "" if the stage has the length."""
    given = next(iter(OTHER_LIBRARIES.get(name, ())), name)
    own = next((length for length in LENGTHS if length in everywhere), given)
    if given not in LENGTHS or own == given:
        return ""
    batch = "batch_pairs" if "batch_pairs" in everywhere else "batch_rows"
    return f"the length of this stage is {own}; {CONVERSIONS[given, own].format(batch=batch)}"


def _alike(name: str, beside: Sequence[str], everywhere: Sequence[str]) -> list[str]:
    """Return the fields that may be meant: equal in another part, with its words, or alike."""
    leaf = _leaf(name)
    leaf = ALIASES.get(leaf, leaf)
    same = [field for field in OTHER_LIBRARIES.get(leaf, ()) if field in everywhere]
    if found := same or [field for field in everywhere if _leaf(field) == leaf]:
        return found
    words = set(leaf.split("_"))
    for fields in (beside, everywhere):
        by_leaf = {_leaf(field): field for field in reversed(fields)}
        leaves = [one for one in reversed(by_leaf) if words <= set(one.split("_"))]
        if found := leaves or get_close_matches(leaf, by_leaf, n=1):
            return [by_leaf[found[0]]]
    return []


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
