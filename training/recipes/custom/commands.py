"""`thumbwheel train sft | reward-model | dpo | kto | ppo | grpo` on user files, and `run`.

`run` executes all stages of a recipe. The same command resumes after an interruption. All artifacts
of a model may be in one folder.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.artifacts.manifest import Manifest, finished_manifest
from training.cluster.group import BOOKKEEPING, Group
from training.cluster.notice import STOP_FILE
from training.data.examples import summarise
from training.data.formats.catalogue import PROMPTS, SFT, kind_of
from training.decoding.arguments import chat_command
from training.errors import ConfigError, unknown_choice
from training.model.config import REWARD_SETTINGS, ModelConfig, read_language_model
from training.planning.stage import PlannedConfig
from training.progress_log import resume_text
from training.recipes.custom.assignments import assigned, fields_named, listed, settable
from training.recipes.custom.recipe_file import FIXED, of_stage, open_recipe, set_fields
from training.recipes.custom.stages import STAGES, runs
from training.recipes.open_models.recipes import Places
from training.reporting.progress import StageDisplay, open_display
from training.reporting.stage import EXPLANATIONS, REPORT, warning_lines
from training.reporting.tracking import FOLDER, tracking_in
from training.runtime.context import Lineage
from training.runtime.paths import existing_file, existing_path
from training.stage_record import FINISHED, check_same_inputs, check_same_run
from training.stages.policy_config import FIRST_UPDATE, PolicyConfig
from training.stages.pretrain_config import PretrainConfig

RUNS = "runs"
MEASURED = "measured"  # items and answers of `rlvr`
# Names of other entries of the folders.
RESERVED = (RUNS, MEASURED, BOOKKEEPING, STOP_FILE, FOLDER)
EXTRA = "allow_extra_fields"
NAME = re.compile(r"[\w.-]*[\w-][\w.-]*")


def run_one(name: str, options: argparse.Namespace, code_commit: str) -> int:
    """Run one stage.

    Raises:
        ConfigError: the name is not valid for a folder in --work, a field cannot be assigned, or a
            run of this name has another configuration.
    """
    stage, model = STAGES[name], options.model.absolute()
    shape = read_language_model(options.model, "model", with_weights=False)
    output = options.work.absolute() / checked_name(options.name or f"{model.name}-{name}")
    given: dict[str, Any] = {
        "model_directory": model,
        "data_path": existing_file("data", options.data),
        "output_directory": output,
        "lineage": Lineage(output.name, code_commit=code_commit),
        EXTRA: options.allow_extra_fields,
        **lengths(stage.config, shape),
    }
    if stage.is_policy:
        given["reward_model_directory"] = checked_judge(options.reward_model)
    config = assigned(stage.config(**given), options.set, (*FIXED, EXTRA))
    check_same_run(
        config, options.work.absolute() / RUNS / output.name, fields_named(options.set), "name"
    )
    _run({output.name: config}, options, stage.shown)
    return 0


def lengths(kind: Any, model: ModelConfig) -> dict[str, int]:
    """Return the default limit of row lengths.

    The limit is the default of the stage, or the number of positions of the model if smaller.
    """
    positions = model.max_positions
    if issubclass(kind, PolicyConfig):
        return {
            "max_prompt_tokens": min(
                kind.max_prompt_tokens, max(1, positions - kind.max_response_tokens)
            )
        }
    return {"max_tokens": min(kind.max_tokens, positions)}


def run_recipe(options: argparse.Namespace, code_commit: str) -> int:
    """Run all stages of a recipe, or the selected ones.

    Raises:
        ConfigError: the recipe or stage does not exist, or a run in this folder has another
            configuration.
    """
    places = Places(options.models.absolute(), options.data.absolute(), options.work.absolute())
    recipe = open_recipe(options.recipe, places)
    chosen = list(recipe.stages)
    if options.stages is not None:
        known, asked = {stage.name: stage for stage in recipe.stages}, options.stages.split(",")
        if unknown := [name for name in asked if name not in known]:
            raise unknown_choice("stages", unknown[0], known)
        chosen = [known[name] for name in asked]
    stages = {}
    for planned in set_fields(chosen, options.set):
        lineage = replace(planned.config.lineage, code_commit=code_commit)
        stages[planned.name] = replace(planned.config, lineage=lineage)
    for name, config in stages.items():
        named = fields_named(of_stage(name, options.set))
        check_same_run(config, options.work.absolute() / RUNS / name, named)
    shown = dict.fromkeys(figure for stage in STAGES.values() for figure in stage.shown)
    _run(stages, options, tuple(shown))
    return 0


def _run(
    stages: Mapping[str, PlannedConfig], options: argparse.Namespace, figures: Sequence[str]
) -> None:
    """Run the stages by name, unless they are finished."""
    storage: Path = options.work.absolute() / RUNS
    due = {
        name: config
        for name, config in stages.items()
        if not finished_manifest(config.output_directory)
    }
    first_config = next(iter(due.values()), None)
    if first_config is not None and not isinstance(first_config, PretrainConfig):
        read_language_model(first_config.model_directory, "model")
    lines = [
        f"{name} {line}" if len(stages) > 1 else line
        for place, (name, config) in enumerate(due.items())
        for line in checked_rows(config, is_first=place == 0)
    ]
    most, fewest = options.workers
    group = Group(most, options.gpus_per_worker, options.rollout_actors, fewest)
    bucket = bucket_prefix(options)
    for line in lines:
        print(line, flush=True)
    first = {  # text to display before the first step
        name: resume_text(storage / name)
        or (FIRST_UPDATE if isinstance(config, PolicyConfig) else "")
        for name, config in due.items()
    }
    for name in stages:
        if name not in due:
            print(f"{name}: {FINISHED}")
    if due:
        # Imports torch, so all options are checked before.
        from training.cluster.runner import StageRun, run_stages

        chosen = [StageRun(name, runs(config), config) for name, config in due.items()]
        with open_display() as display:
            shown = StageDisplay(display, figures, first=first)
            tracking = tracking_in(options.work, options.track)
            run_stages(chosen, storage, group, shown, bucket, tracking)
    for name, config in stages.items():
        if name not in due:  # its parent may have been trained again
            check_same_inputs(config, storage / name)
    for name, config in stages.items():
        if manifest := finished_manifest(config.output_directory):
            print(
                f"\n{config.output_directory}\n  {_format_report(manifest)}"
                f"\n  page: {storage / name / REPORT}"
            )
            if not (config.output_directory / REWARD_SETTINGS).exists():
                print(f"  chat: {chat_command(config.output_directory)}")
            for line in warning_lines(storage / name):
                print(f"  {line}")


def bucket_prefix(options: argparse.Namespace) -> str | None:
    """Return the prefix of the checkpoints in the bucket, or None if they are in the folder."""
    return f"checkpoints/{options.work.absolute().name}" if options.checkpoints_in_bucket else None


def _format_report(manifest: Manifest) -> str:
    """Format the numbers of the report, the reason of an early stop, and notes on figures.

    Notes explain figures that are often misread.
    """
    report = manifest.report
    numbers = {name: value for name, value in report.items() if isinstance(value, int | float)}
    figures = [f"{name} {value:.4g}" for name, value in numbers.items()]
    stopped = report.get("stopped_because")
    line = ", ".join(([f"stopped: {stopped}"] if stopped else []) + figures)
    return "\n  ".join(
        [line, *(f"{name}: {EXPLANATIONS[name]}" for name in numbers if name in EXPLANATIONS)]
    )


def fields_of(name: str) -> str:
    """Return the help text on the fields of a stage that can be assigned."""
    fields = settable(STAGES[name].config, (*FIXED, EXTRA))
    return listed(fields)


# Checks of the inputs, before files are written or processes started.


def checked_name(name: str) -> str:
    """Return the name of an output.

    Raises:
        ConfigError: the name is not valid for a folder in --work.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"name: {name!r} is not letters, digits, - _ .",
            field="name",
            reason="MALFORMED",
            limit="letters, digits, - _ .",
        )
    if name in RESERVED:
        raise ConfigError(
            f"name: {name!r} is reserved in a folder of runs", field="name", reason="IN_USE"
        )
    return name


def checked_judge(path: Path | None) -> Path | None:
    """Return the path of the reward model; None if the prompts have tasks (`checked_rows`).

    Raises:
        ConfigError: the path is not a reward model.
    """
    if path is None:
        return None
    directory = existing_path("reward-model", path)
    if not (directory / REWARD_SETTINGS).exists():
        found = (
            "a language model, not a reward model"
            if (directory / "config.json").exists()
            else "no reward model"
        )
        raise ConfigError(
            f"reward-model: {path} is {found}", field="reward-model", reason="MISMATCH"
        )
    return directory


def checked_rows(config: PlannedConfig, is_first: bool) -> list[str]:
    """Check the rows of a stage, and return a line on the content of each file.

    Each file is read once. The stage reads the file again, because a worker may be on another
    machine.

    Args:
        is_first: no earlier stage of a recipe may write the files, so they must exist.

    Raises:
        ExampleError: a row is invalid or has an unknown field.
        ConfigError: a file does not exist, an update needs more prompts than a file has, or a
            prompt has no task and there is no reward model.
    """
    if isinstance(config, PretrainConfig):
        return []  # it reads shards
    name = next(name for name, one in STAGES.items() if isinstance(config, one.config))
    # Field, file, prompts of an update, and the field that sets their number.
    files = [("data", config.data_path, kind_of(name), 0, "")]
    needs_tasks = False
    if isinstance(config, PolicyConfig):
        needs_tasks, tasks = config.reward_model_directory is None, config.verifiable_per_update
        count = config.prompts_per_update - tasks
        files = [("data", config.data_path, PROMPTS, count, "prompts_per_update")]
        if (mix := config.verifiable) is not None:
            files.append(("verifiable", mix.data_path, PROMPTS, tasks, "verifiable.share"))
        if config.sft_mix is not None:
            files.append(("sft_mix", config.sft_mix.data_path, SFT, 0, ""))
    lines = []
    for field, path, kind, needed, why in files:
        if not (is_first or path.is_file()):
            continue
        found = summarise(existing_file(field, path), kind, config.allow_extra_fields)
        if needs_tasks and found.first_without_task:
            raise ConfigError(
                f"reward-model: missing, and row {found.first_without_task} of {path.name} has no "
                "task; one of both is needed",
                field="reward-model",
                reason="MISSING",
            )
        if needed > found.rows:
            raise ConfigError(
                f"{why}: an update needs {needed} of the {found.rows} prompts of {path.name}",
                field=why,
                reason="TOO_LARGE",
                limit=f"at most {found.rows}",
            )
        lines.append(f"{field}: {found.text()}")
    return lines
