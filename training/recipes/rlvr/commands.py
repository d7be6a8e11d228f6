"""`thumbwheel train rlvr`: items, answers to held-out items, training, and the answers again.

Each step writes a file and is skipped if the file exists, so the same command resumes after an
interruption.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.artifacts.inputs import hash_input
from training.artifacts.manifest import plain
from training.cluster.group import Group
from training.cluster.runner import StageRun, run_stages
from training.data.chat import Chat
from training.decoding.arguments import chat_command
from training.errors import ConfigError
from training.evaluation.answers import ChatModel
from training.recipes.rlvr.held_out import change_text, measure, share_text
from training.recipes.rlvr.recipe import ALGORITHMS, SIZES, Lengths, sampling
from training.recipes.rlvr.stage import open_scorer, run
from training.reporting.progress import Lines, StageDisplay
from training.reporting.stage import warning_lines
from training.reporting.tracking import tracking_in
from training.reporting.warnings import measured_warnings
from training.runs import write_json
from training.runtime.machine import use_device
from training.runtime.ranks import all_different
from training.stage_record import SHORT_HASH, changed_text, check_same_run
from training.stages.policy_config import FIRST_UPDATE, PolicyConfig
from training.stages.policy_inputs import read_data
from training.stages.policy_loop import check_shares
from training.verification.items import Item, Split, write_items
from training.verification.tasks.catalogue import ItemRequest, make_items

SHOWN = ("score", "reward", "kl", "response_tokens", "zero_variance_groups", "verdict_unparsable")
# Options that do not change the result.
IGNORED_OPTIONS = (
    "command",
    "workers",
    "gpus_per_worker",
    "rollout_actors",
    "device",
    "work",
    "track",
)
COUNTS = ("updates", "items", "held_out", "samples", "prompt_tokens", "response_tokens")
OPTIONS = {  # by config field
    "rollout_actors": "rollout-actors",
    "max_prompt_tokens": "prompt-tokens",
    "max_prompt_tokens + max_response_tokens": "prompt-tokens + response-tokens",
}
MODEL_HASH = "model_sha256"  # entry of OPTIONS_FILE beside the options
OPTIONS_FILE, BEFORE, AFTER, RESULT = "asked.json", "before.json", "after.json", "result.json"


def train_on_task(options: argparse.Namespace, code_commit: str) -> int:
    """Run all steps of the command.

    Raises:
        ValueError: the options cannot be satisfied, or the folder belongs to another run.
    """
    work: Path = options.work.absolute()
    group = checked_group(options)
    settings = checked_settings(options, work / OPTIONS_FILE)
    lengths = Lengths(options.prompt_tokens, options.response_tokens)
    data = work / "items.jsonl"
    output = work / f"{options.model.name}-{options.task}-{options.algorithm}"
    config = ALGORITHMS[options.algorithm](
        SIZES[options.size],
        options.model.absolute(),
        data,
        output,
        options.updates,
        lengths,
        code_commit,
    )
    config = replace(config, machine=replace(config.machine, device=options.device))
    check_config(config, options.workers)
    model = None if (work / BEFORE).exists() else opened_model(options.model)
    trained = _items(options, Split.TRAIN, options.items)
    held_out = _items(options, Split.HELD_OUT, options.held_out)
    work.mkdir(parents=True, exist_ok=True)
    write_items(trained, data)
    check_same_run(config, work / "runs" / options.algorithm)
    if model is not None:
        check_prompts(config, model.chat)
        model = None  # measuring loads it again: two copies during training would waste memory
    write_json(work / OPTIONS_FILE, settings)
    lines = Lines(sys.stdout)
    answered = sampling(lengths, options.samples)
    use_device(options.device)
    with open_scorer(held_out) as scorer:
        lines.say(
            f"{len(held_out)} held-out items, {options.samples} answers each: {options.model.name}"
        )
        before = measure(options.model, held_out, scorer, answered, work / BEFORE)
        lines.say(f"accuracy before: {share_text(before.right)}")
        shown = StageDisplay(
            lines, SHOWN, counted="update", first={options.algorithm: FIRST_UPDATE}
        )
        tracking = tracking_in(work, options.track)
        stages: list[StageRun[Any]] = [StageRun(options.algorithm, run, config)]
        run_stages(stages, work / "runs", group, shown, tracking=tracking)
        lines.say(f"the same items for {output.name}")
        after = measure(output, held_out, scorer, answered, work / AFTER)
    gain = after.gain(before)
    fields = {"before": before.right, "after": after.right, "gain": gain}
    write_json(work / RESULT, {name: plain(value) for name, value in fields.items()})
    lines.say(
        f"accuracy after: {share_text(after.right)}; gain: {change_text(gain)} "
        f"(95 %, {gain.clusters} items)"
    )
    texts = [f"warning: {text}" for text in measured_warnings(len(held_out), gain)]
    for text in (*warning_lines(work / "runs" / options.algorithm), *texts):
        lines.say(text)
    lines.say(f"the model is in {work / after.version}, report under {work / 'runs'}")
    print(f"  chat: {chat_command(work / after.version)}")
    return 0


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


def checked_settings(options: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Return the options that determine the result, to be stored at `path`.

    Raises:
        ConfigError: the folder belongs to a run with other options or another model under the
            same path; the two would be mixed.
    """
    relevant = {name: value for name, value in vars(options).items() if name not in IGNORED_OPTIONS}
    settings: dict[str, Any] = plain(relevant | {"model": options.model.absolute()})
    settings[MODEL_HASH] = hash_input(options.model)
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else settings
    # The hash is missing if the model is, or in a file of an earlier version.
    was, now = before.get(MODEL_HASH), settings[MODEL_HASH]
    if was and now and was != now:
        raise ConfigError(
            changed_text("model", options.model, was, now, path.parent.name)
            + f"use another folder, or remove {path.parent}",
            field="model",
            reason="CHANGED",
            limit=was[:SHORT_HASH],
        )
    if before | {MODEL_HASH: now} != settings:
        raise ConfigError(
            "work: holds a run with other options (asked.json); use another folder",
            field="work",
            reason="MISMATCH",
        )
    return settings | {MODEL_HASH: was or now}


def checked_group(options: argparse.Namespace) -> Group:
    """Return the group of processes.

    Raises:
        ConfigError: a count is too low, or rollout actors are requested without workers.
    """
    for name in COUNTS:
        if getattr(options, name) < 1:
            option = name.replace("_", "-")
            raise ConfigError(
                f"{option}: {getattr(options, name)} is not at least 1",
                field=option,
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )
    if options.workers < 0:
        raise ConfigError(
            f"workers: {options.workers} is below 0",
            field="workers",
            reason="OUT_OF_RANGE",
            limit="at least 0",
        )
    with _with_option_names():
        return Group(options.workers, options.gpus_per_worker, options.rollout_actors)


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


def opened_model(directory: Path) -> ChatModel:
    """Load the model like the first measurement, so that its errors show early.

    Raises:
        ConfigError: the directory does not exist.
        ChatError, CheckpointError, ModelConfigError: the directory is not a complete model.
    """
    if not directory.is_dir():
        raise ConfigError(f"model: {directory} does not exist", field="model", reason="MISSING")
    return ChatModel(directory)


def check_prompts(config: PolicyConfig, chat: Chat) -> None:
    """Check the lengths of the prompts.

    Raises:
        ConfigError: no prompt is short enough, or prompt and response exceed the positions of the
            model.
    """
    with _with_option_names():
        read_data(config, chat)


@contextmanager
def _with_option_names() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        field, colon, rest = str(error).partition(":")
        raise ConfigError(
            f"{OPTIONS.get(field, field)}{colon}{rest}",
            field=OPTIONS.get(error.field, error.field),
            reason=error.reason,
            limit=error.limit,
        ) from error
