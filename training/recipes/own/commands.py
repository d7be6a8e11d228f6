"""`python -m training sft | reward-model | dpo | kto | ppo | grpo` on files of one's own, and `run` for all stages of a recipe. The same
command goes on after a kill; all that a life of a model needs may lie in one folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.cluster.group import Group
from training.cluster.runner import StageRun, run_stages
from training.cluster.stage_record import refuse_other
from training.manifest import Manifest
from training.model.checkpoint import read_config
from training.planning.plan import PlannedStage
from training.progress import ShownStages, open_display
from training.recipes.open_models.recipes import Places
from training.recipes.own.assignments import assigned, listed
from training.recipes.own.recipe_file import open_recipe
from training.recipes.own.stages import STAGES, runs
from training.reporting.stage import REPORT
from training.stages.context import ConfigError, Lineage
from training.stages.policy_loop import FIRST, PolicyConfig

RUNS = "runs"
FIXED = ("model_directory", "reward_model_directory", "data_path", "output_directory", "lineage")


def run_one(name: str, options: argparse.Namespace, code_commit: str) -> int:
    """One stage.

    Raises:
        ConfigError: a field that is not to be set so, or a run of this name that was begun otherwise.
    """
    stage, output = STAGES[name], options.work.absolute() / (options.name or f"{options.model.name}-{name}")
    given: dict[str, Any] = {
        "model_directory": _there("model", options.model),
        "data_path": _there("data", options.data),
        "output_directory": output,
        "lineage": Lineage(output.name, code_commit=code_commit),
        **lengths(stage.config, options.model),
    }
    if stage.is_policy:
        judge: Path | None = options.reward_model
        given["reward_model_directory"] = judge and _there("reward-model", judge)
    config = assigned(stage.config(**given), options.set, FIXED)
    _run([StageRun(output.name, stage.run, config)], options, stage.shown)
    return 0


def lengths(kind: Any, model_directory: Path) -> dict[str, int]:
    """How long a row may be where nobody sets it: what its stage's config says, or what the model has positions for, if that is less."""
    positions = read_config(model_directory).max_positions
    if issubclass(kind, PolicyConfig):
        return {"max_prompt_tokens": min(kind.max_prompt_tokens, max(1, positions - kind.max_response_tokens))}
    return {"max_tokens": min(kind.max_tokens, positions)}


def run_recipe(options: argparse.Namespace, code_commit: str) -> int:
    """All stages, or those that were asked for.

    Raises:
        ConfigError: there is no such recipe or stage, or a run in this folder that was begun otherwise.
    """
    places = Places(options.models.absolute(), options.data.absolute(), options.work.absolute())
    recipe = open_recipe(options.recipe, places)
    stages = [_changed(stage, options.set, code_commit) for stage in _chosen(recipe.stages, options.stages)]
    _refuse_unknown(options.set, [stage.name for stage in stages])
    shown = dict.fromkeys(figure for stage in STAGES.values() for figure in stage.shown)
    _run([StageRun(stage.name, runs(stage.config), stage.config) for stage in stages], options, tuple(shown))
    return 0


def _run(stages: Sequence[StageRun[Any]], options: argparse.Namespace, figures: Sequence[str]) -> None:
    storage: Path = options.work.absolute() / RUNS
    for stage in stages:
        refuse_other(stage.config, storage / stage.name)
    most, fewest = options.workers
    group = Group(most, options.gpus_per_worker, options.rollout_actors, fewest)
    bucket = bucket_prefix(options)
    first = {stage.name: FIRST for stage in stages if isinstance(stage.config, PolicyConfig)}
    with open_display() as display:
        made = run_stages(stages, storage, group, ShownStages(display, figures, first=first), bucket)
    for stage, manifest in zip(stages, made, strict=False):
        print(f"\n{stage.config.output_directory}\n  {_told(manifest)}\n  page: {storage / stage.name / REPORT}")


def bucket_prefix(options: argparse.Namespace) -> str | None:
    """Where in the bucket a folder of runs keeps its checkpoints; None: they lie in the folder."""
    return f"checkpoints/{options.work.absolute().name}" if options.checkpoints_in_bucket else None


def _told(manifest: Manifest) -> str:
    """Figures of the report that are numbers, and why it stopped before its end."""
    report = manifest.report
    figures = [f"{name} {value:.4g}" for name, value in report.items() if isinstance(value, int | float)]
    stopped = report.get("stopped_because")
    return ", ".join(([f"stopped: {stopped}"] if stopped else []) + figures)


def _there(option: str, path: Path) -> Path:
    """Raises: ConfigError: nothing is there."""
    if not path.exists():
        raise ConfigError(f"{option}: {path} is not there")
    return path.absolute()


def _chosen(stages: Sequence[PlannedStage], names: str | None) -> list[PlannedStage]:
    if names is None:
        return list(stages)
    known, asked = {stage.name: stage for stage in stages}, names.split(",")
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"stages: {unknown[0]!r} is not one of {', '.join(known)}")
    return [known[name] for name in asked]


def _changed(stage: PlannedStage, assignments: Sequence[str], code_commit: str) -> PlannedStage:
    prefix = f"{stage.name}."
    mine = [text.removeprefix(prefix) for text in assignments if text.startswith(prefix)]
    config = assigned(stage.config, mine, FIXED)
    return replace(stage, config=replace(config, lineage=replace(config.lineage, code_commit=code_commit)))


def _refuse_unknown(assignments: Sequence[str], names: Sequence[str]) -> None:
    for text in assignments:
        if text.partition(".")[0] not in names:
            raise ConfigError(f"set: {text!r} does not begin with a stage, {' or '.join(f'{name}.' for name in names)}")


def fields_of(name: str) -> str:
    """What of a stage's config can be set, as its help lists it."""
    return f"fields for --set, as they are if nobody sets them:\n{listed(STAGES[name].config, FIXED)}"
