"""`python -m training rlvr`: items, answers to held-out items, training, and the answers again.

Each step writes a file and is skipped if the file exists, so the same command resumes after an
interruption.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from training.artifacts.manifest import plain
from training.cluster.runner import StageRun, run_stages
from training.errors import ConfigError
from training.recipes.rlvr.checks import check_config, check_prompts, checked_group, opened_model
from training.recipes.rlvr.held_out import Measured, change_text, measure, share_text
from training.recipes.rlvr.recipe import ALGORITHMS, SIZES, Lengths, sampling
from training.recipes.rlvr.stage import open_scorer, run
from training.reporting.progress import Lines, StageDisplay
from training.runs import write_json
from training.runtime.machine import use_device
from training.stages.policy_loop import FIRST_UPDATE
from training.verification.items import Item, Split, write_items
from training.verification.tasks.catalogue import ItemRequest, make_items

SHOWN = ("score", "reward", "kl", "response_tokens", "zero_variance_groups", "verdict_unparsable")
# Options that do not change the result.
IGNORED_OPTIONS = ("command", "workers", "gpus_per_worker", "rollout_actors", "device", "work")
OPTIONS_FILE, BEFORE, AFTER, RESULT = "asked.json", "before.json", "after.json", "result.json"


def train_on_task(options: argparse.Namespace, code_commit: str) -> int:
    """Run all steps of the command.

    Raises:
        ValueError: the options cannot be satisfied, or the folder belongs to another run.
    """
    work: Path = options.work.absolute()
    group = checked_group(options)
    _check_folder(options, work / OPTIONS_FILE)
    lengths = Lengths(options.prompt_tokens, options.response_tokens)
    data, output = (
        work / "items.jsonl",
        work / f"{options.model.name}-{options.task}-{options.algorithm}",
    )
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
    trained, held_out = (
        _items(options, Split.TRAIN, options.items),
        _items(options, Split.HELD_OUT, options.held_out),
    )
    work.mkdir(parents=True, exist_ok=True)
    write_items(trained, data)
    if model is not None:
        check_prompts(config, model.chat)
        model = None  # measuring loads it again: two copies during training would waste memory
    write_json(work / OPTIONS_FILE, _options(options))
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
        run_stages([StageRun(options.algorithm, run, config)], work / "runs", group, shown)
        lines.say(f"the same items for {output.name}")
        after = measure(output, held_out, scorer, answered, work / AFTER)
    _conclude(before, after, work, lines)
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


def _check_folder(options: argparse.Namespace, path: Path) -> None:
    """Check that the folder belongs to a run with the same options; others would be mixed."""
    if path.exists() and json.loads(path.read_text()) != _options(options):
        raise ConfigError(
            "work: holds a run with other options (asked.json); use another folder",
            field="work",
            reason="MISMATCH",
        )


def _options(options: argparse.Namespace) -> dict[str, Any]:
    relevant = {name: value for name, value in vars(options).items() if name not in IGNORED_OPTIONS}
    selected: dict[str, Any] = plain(relevant | {"model": options.model.absolute()})
    return selected


def _conclude(before: Measured, after: Measured, work: Path, lines: Lines) -> None:
    gain = after.gain(before)
    fields = {"before": before.right, "after": after.right, "gain": gain}
    write_json(work / RESULT, {name: plain(value) for name, value in fields.items()})
    lines.say(
        f"accuracy after: {share_text(after.right)}; gain: {change_text(gain)} "
        f"(95 %, {gain.clusters} items)"
    )
    lines.say(f"the model is in {work / after.version}, report under {work / 'runs'}")
