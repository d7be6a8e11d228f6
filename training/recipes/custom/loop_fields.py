"""Fields of a run of the loop that `--set STAGE.FIELD=VALUE` changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from training.recipes.custom.recipe_file import set_parts
from training.recipes.recipe import LoopConfig

PARTS = (
    "snapshot",
    "sets",
    "sft",
    "reward_model",
    "judge",
    "ppo",
    "evaluation",
    "gate",
    "canary",
)
# Folders of the run, which its steps exchange. The stages before have FIXED.
EVALUATION_FOLDERS = (
    "incumbent_directory",
    "candidate_directory",
    "reward_model_directory",
    "reward_model_base",
    "judge_directory",
    "judge_base",
    "held_out_prompts",
    "held_out_pairs",
    "health_directory",
    "thumbs",
    "output_directory",
)


def set_loop_fields(config: LoopConfig, assignments: Sequence[str]) -> LoopConfig:
    """Return the configuration with these fields of its steps set.

    All fields are set before the steps are compared, so two fields that must agree can be set
    together.

    Raises:
        ConfigError: as `set_parts`, or the steps contradict each other.
    """
    if not assignments:
        return config
    parts = {name: getattr(config, name) for name in PARTS}
    return replace(config, **set_parts(parts, assignments, {"evaluation": EVALUATION_FOLDERS}))
