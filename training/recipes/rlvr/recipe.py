"""Complete configs of GRPO and PPO on tasks, for two sizes of an update, and checks of options.

This module does not import torch.

With fewer than some hundred samples per update GRPO collapses early on small models; 400 and more
are better, but cost minutes per update on a small machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.artifacts.manifest import finished_manifest
from training.cluster.group import Group
from training.model.config import read_language_model
from training.model.fields import check_model_directory
from training.optim.config import OptimizerConfig
from training.recipes.custom.assignments import listed, parsed, settable
from training.recipes.custom.commands import checked_name
from training.recipes.custom.recipe_file import FIXED
from training.rl.config import KlConfig
from training.runtime.context import Lineage, Machine
from training.runtime.ranges import Range
from training.stages.policy_config import GrpoConfig, PpoConfig
from training.verification.tasks.catalogue import ItemRequest

SEED = 20_261_126
FEW_WEIGHTS = "models below 50 million weights"
COUNTS = ("items", "held_out", "samples")


@dataclass(frozen=True)
class Size:
    """Samples of an update: of GRPO in groups for each prompt, of PPO for as many prompts."""

    prompts: int
    samples: int
    minibatch_rows: int
    dtype: str = "float32"


LARGE = Size(prompts=16, samples=8, minibatch_rows=64, dtype="auto")
TINY = Size(prompts=25, samples=16, minibatch_rows=100)  # for FEW_WEIGHTS
DESCRIBED = {  # fields whose values depend on the model and other options
    "prompts_per_update": f"{LARGE.prompts}; {TINY.prompts} for {FEW_WEIGHTS}",
    "samples_per_prompt": f"{LARGE.samples}; {TINY.samples} for {FEW_WEIGHTS}",
    "minibatch_rows": f"{LARGE.minibatch_rows}; {TINY.minibatch_rows} for {FEW_WEIGHTS}",
    "machine.dtype": f"{LARGE.dtype}; {TINY.dtype} for {FEW_WEIGHTS}",
    "policy_optimizer.learning_rate": (
        "by the number of weights: 3e-4 (nano), 1.2e-4 (adapters of 135 million weights); for "
        "adapters ten times as high as for all weights"
    ),
    "lora": f"rank 8; none for {FEW_WEIGHTS} or with --no-lora",
    "vocabulary_rows": "32768; none without lora",
}


def make_config(
    algorithm: str, size: Size, rate: float, given: Mapping[str, Any]
) -> GrpoConfig | PpoConfig:
    """Return the config of a run without a reward model.

    Args:
        algorithm: grpo, with the wider clip and the filter of DAPO, because groups with equal
            scores have no gradient; or ppo, whose critic is the model with a zero head.
        rate: learning rate.
        given: paths, lineage and the settings of an adapter.
    """
    optimizer = OptimizerConfig(learning_rate=rate, warmup_steps=2, betas=(0.9, 0.99))
    common: dict[str, Any] = {
        "reward_model_directory": None,
        "updates": 40,
        "minibatch_rows": size.minibatch_rows,
        "max_prompt_tokens": 192,
        "max_response_tokens": 64,
        "policy_optimizer": optimizer,
        "checkpoint_every_updates": 2,
        "seed": SEED,
        "machine": Machine(dtype=size.dtype),
        **given,
    }
    if algorithm == "ppo":
        return PpoConfig(
            prompts_per_update=size.prompts * size.samples,
            kl=KlConfig(initial=0.05),
            critic_optimizer=optimizer,
            **common,
        )
    return GrpoConfig(
        prompts_per_update=size.prompts,
        samples_per_prompt=size.samples,
        epochs_per_update=1,
        filter_zero_variance=True,
        **common,
    )


def checked_run(options: argparse.Namespace) -> tuple[str, Group]:
    """Return the name and the group of processes of a run, after checks that need no weights.

    Raises:
        ConfigError: a count is too low, rollout actors are requested without workers, the name,
            the task or the model cannot be used, or a field cannot be assigned.
    """
    for name in COUNTS:
        Range(1).check(name.replace("_", "-"), getattr(options, name))
    most, fewest = options.workers
    group = Group(most, options.gpus_per_worker, options.rollout_actors, fewest)
    check_model_directory(options.model, "model")
    default = f"{options.model.absolute().name}-{options.task}-{options.algorithm}"
    name = checked_name(options.name or default)
    is_finished = finished_manifest(options.work.absolute() / name) is not None
    read_language_model(options.model, "model", with_weights=not is_finished)
    ItemRequest(options.task, options.items, SEED, level=options.level, texts=options.texts)
    parsed(PpoConfig if options.algorithm == "ppo" else GrpoConfig, options.set, FIXED)
    return name, group


def settable_fields() -> str:
    """Return the help text on config fields, with the values of GRPO."""
    places = dict.fromkeys(("model_directory", "data_path", "output_directory"), Path())
    config = make_config("grpo", LARGE, 1.0, {**places, "lineage": Lineage("")})
    fields = (
        replace(field, value=DESCRIBED.get(field.name, field.value))
        for field in settable(GrpoConfig, FIXED, config)
    )
    return listed(fields, " of --algorithm grpo")
