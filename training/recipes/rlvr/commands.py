"""`thumbwheel train rlvr`: items, answers to held-out items, training, and the answers again.

Each step writes a file and is skipped if the file exists, so the same command resumes after an
interruption.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from durable_files.files import write_json
from training.artifacts.inputs import hash_input
from training.artifacts.manifest import plain
from training.cluster.group import Group
from training.cluster.runner import StageRun, run_stages
from training.decoding.arguments import chat_command
from training.errors import ConfigError
from training.evaluation.answers import ChatModel
from training.evaluation.config import Sampling
from training.model.config import ModelConfig, read_config
from training.planning.step import sizes_of
from training.recipes.auto.rates import POLICY
from training.recipes.auto.values import is_tiny
from training.recipes.custom.assignments import assigned, fields_named
from training.recipes.custom.commands import (
    MEASURED,
    RUNS,
    bucket_prefix,
)
from training.recipes.custom.recipe_file import FIXED
from training.recipes.rlvr.held_out import change_text, measure, share_text
from training.recipes.rlvr.recipe import LARGE, SEED, TINY, make_config
from training.recipes.rlvr.stage import open_scorer, run
from training.recipes.small import LORA, VOCABULARY_ROWS
from training.reporting.progress import Lines, StageDisplay
from training.reporting.stage import REPORT, warning_lines
from training.reporting.tracking import tracking_in
from training.reporting.warnings import measured_warnings
from training.runtime.context import Lineage
from training.runtime.machine import use_device
from training.runtime.ranks import all_different
from training.stage_record import SHORT_HASH, changed_text, check_same_run, remove_unsaved_run
from training.stages.policy_config import FIRST_UPDATE, GrpoConfig, PolicyConfig, PpoConfig
from training.stages.policy_inputs import read_data
from training.stages.policy_loop import check_shares
from training.verification.items import Item, Split, write_items
from training.verification.tasks.catalogue import ItemRequest, make_items

SHOWN = ("score", "reward", "kl", "response_tokens", "zero_variance_groups", "verdict_unparsable")
# Options that determine the items and their measurement.
RECORDED_OPTIONS = ("task", "level", "texts", "items", "held_out", "samples")
MODEL_HASH = "model_sha256"  # entry of OPTIONS_FILE beside the options
ITEMS = "items.jsonl"
OPTIONS_FILE, BEFORE, AFTER, RESULT = "asked.json", "before.json", "after.json", "result.json"


def train_on_task(options: argparse.Namespace, name: str, group: Group, code_commit: str) -> int:
    """Run all steps of the command.

    Args:
        name, group: of the run, as `checked_run` returns them.

    Raises:
        ValueError: the options cannot be satisfied, or the name belongs to another run.
    """
    work: Path = options.work.absolute()
    folder, run_folder, output = work / MEASURED / name, work / RUNS / name, work / name
    shape = read_config(options.model)
    config = make_run(options, shape, folder / ITEMS, output, code_commit)
    check_config(config, group.workers)
    answered = sampling(config, options.samples)
    settings = checked_settings(options, answered, folder / OPTIONS_FILE)
    model = None if (folder / BEFORE).exists() else ChatModel(options.model)
    trained = _items(options, Split.TRAIN, options.items)
    held_out = _items(options, Split.HELD_OUT, options.held_out)
    folder.mkdir(parents=True, exist_ok=True)
    write_items(trained, config.data_path)
    check_same_run(config, run_folder, fields_named(options.set), "name")
    remove_unsaved_run(config, run_folder)
    if model is not None:
        read_data(config, model.chat)  # checks the lengths of the prompts
        model = None  # measuring loads it again: two copies during training would waste memory
    write_json(folder / OPTIONS_FILE, settings)
    lines = Lines(sys.stdout)
    use_device(config.machine.device)
    with open_scorer(held_out) as scorer:
        lines.say(plan_text(config))
        lines.say(
            f"measuring {options.model.name}: {len(held_out)} held-out items, "
            f"{options.samples} answers each"
        )
        before = measure(options.model, held_out, scorer, answered, folder / BEFORE)
        lines.say(f"accuracy before: {share_text(before.right)} (95 %)")
        shown = StageDisplay(lines, SHOWN, counted="update", first={name: FIRST_UPDATE})
        stages: list[StageRun[Any]] = [StageRun(name, run, config)]
        prefix, tracking = bucket_prefix(options), tracking_in(work, options.track)
        run_stages(stages, work / RUNS, group, shown, prefix, tracking)
        lines.say(f"measuring {name}: the same items")
        after = measure(output, held_out, scorer, answered, folder / AFTER)
    gain = after.gain(before)
    fields = {"before": before.right, "after": after.right, "gain": gain}
    write_json(folder / RESULT, {name: plain(value) for name, value in fields.items()})
    lines.say(
        f"accuracy after: {share_text(after.right)}; gain: {change_text(gain)} "
        f"(95 %, {gain.clusters} items)"
    )
    texts = [f"warning: {text}" for text in measured_warnings(len(held_out), gain)]
    for text in (*warning_lines(run_folder), *texts):
        lines.say(text)
    lines.say(f"the model is in {output}\n  page: {run_folder / REPORT}")
    print(f"  chat: {chat_command(output)}")
    return 0


def make_run(
    options: argparse.Namespace, shape: ModelConfig, items: Path, output: Path, code_commit: str
) -> GrpoConfig | PpoConfig:
    """Return the config of the run, with the fields of --set."""
    rate, mode = training_mode(shape, options.lora)
    given = {
        "model_directory": options.model.absolute(),
        "data_path": items,
        "output_directory": output,
        "lineage": Lineage(output.name, code_commit=code_commit),
        **mode,
    }
    made = make_config(options.algorithm, TINY if is_tiny(shape) else LARGE, rate, given)
    return assigned(made, options.set, FIXED)


def training_mode(model: ModelConfig, adapted: bool | None) -> tuple[float, dict[str, Any]]:
    """Return the learning rate for the number of weights, and the settings of an adapter, if any.

    Args:
        adapted: train adapters; None: unless the model is tiny.
    """
    is_adapted = not is_tiny(model) if adapted is None else adapted
    rate = POLICY.at(sizes_of(model).total, is_adapted)
    return rate, {"lora": LORA, "vocabulary_rows": VOCABULARY_ROWS} if is_adapted else {}


def plan_text(config: GrpoConfig | PpoConfig) -> str:
    """Describe the length of a run, and the values that the command derives from the model."""
    weights = "all weights" if config.lora is None else f"adapters of rank {config.lora.rank}"
    return (
        f"{config.updates} updates of {config.rows_per_update} responses; trains {weights}, "
        f"learning rate {config.policy_optimizer.learning_rate:.2g}"
    )


def sampling(config: PolicyConfig, samples: int) -> Sampling:
    """Return the sampling of held-out items, equal to the sampling in training.

    So the measured distribution is the trained one.
    """
    return Sampling(
        samples_per_prompt=samples,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
        temperature=config.temperature,
        seed=SEED,
    )


def _items(options: argparse.Namespace, split: Split, count: int) -> Sequence[Item]:
    items = make_items(ItemRequest(options.task, count, 0, split, options.level, options.texts))
    if len(items) < count:
        print(
            f"only {len(items)} of {count} items: {options.task} has no more of the {split} split",
            file=sys.stderr,
        )
    if not items:
        raise ConfigError(
            f"task: {options.task} has no {split} items", field="task", reason="EMPTY"
        )
    return items


# Checks of the options before the first answer is sampled. They call the code that would fail
# later; errors name the options of the command.


def checked_settings(options: argparse.Namespace, answered: Sampling, path: Path) -> dict[str, Any]:
    """Return the options that determine items and measurements, to be stored at `path`.

    Raises:
        ConfigError: the name belongs to a run with other options or another model under the same
            path; the two would be mixed.
    """
    relevant = {name: getattr(options, name) for name in RECORDED_OPTIONS}
    settings: dict[str, Any] = plain({**relevant, **asdict(answered)})
    settings |= {"model": str(options.model.absolute()), MODEL_HASH: hash_input(options.model)}
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else settings
    name, was, now = path.parent.name, before.get(MODEL_HASH), settings[MODEL_HASH]
    # The hash is missing if the model is.
    if was and now and was != now:
        raise ConfigError(
            changed_text("model", options.model, was, now, name)
            + f"choose another name, or remove {path.parent}",
            field="model",
            reason="CHANGED",
            limit=was[:SHORT_HASH],
        )
    for field in settings.keys() - {MODEL_HASH}:
        if before[field] != settings[field]:
            option = field.replace("_", "-") if field in RECORDED_OPTIONS else field
            raise ConfigError(
                f"{option}: {name} was started with {before[field]}, not {settings[field]}; "
                "choose another name",
                field=option,
                reason="MISMATCH",
                limit=str(before[field]),
            )
    return settings | {MODEL_HASH: was or now}


def check_config(config: PolicyConfig, workers: int) -> None:
    """Check that the workers can share an update.

    Raises:
        ConfigError: the workers cannot share an update evenly.
    """
    try:
        check_shares(config, all_different(0, max(1, workers)))
    except ConfigError as error:
        raise ConfigError(
            f"workers: {error}", field="workers", reason=error.reason, limit=error.limit
        ) from error
