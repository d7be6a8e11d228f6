"""`thumbwheel train pretrain` and `thumbwheel train scaling`.

The steps are texts, tokenizer, shards and runs. The same command resumes after an interruption.
Modules that import torch are imported after the checks of options and texts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from training.artifacts.manifest import finished_manifest
from training.cluster.group import Group
from training.data.corpus import skipped_text, text_files
from training.data.packages import DataError
from training.data.token_shards import TokenisationProgress
from training.decoding.arguments import chat_command
from training.errors import ConfigError, details_of
from training.progress_log import SAMPLES, Watcher, read_samples, resume_text
from training.recipes.custom.assignments import (
    assigned,
    fields_named,
    listed,
    settable,
)
from training.recipes.custom.commands import RUNS, bucket_prefix, checked_name
from training.recipes.pretraining.recipe import (
    CHECKPOINTS,
    CLOSEST_STEPS,
    EVALUATIONS,
    PROMPTS,
    SIZES_VOCABULARY,
    pretraining,
)
from training.recipes.pretraining.shapes import (
    DEFAULT,
    MOST_CONTEXT_TOKENS,
    SHAPES,
    Shape,
)
from training.recipes.pretraining.texts import (
    LICENCE,
    Prepared,
    check_held_out,
    check_same_texts,
    checked_tokenizer,
    open_prepared,
    prepare,
    write_texts,
)
from training.reporting.progress import StageDisplay, open_display
from training.reporting.stage import REPORT, warning_lines
from training.reporting.tracking import tracking_in
from training.runtime.paths import no_empty_folders
from training.stage_record import FINISHED, check_same_run, saved_step
from training.stages.pretrain_config import PretrainConfig

FIXED = ("tokenizer_directory", "shards_directory", "output_directory", "lineage", "model_json")
DTYPE = "float32"  # default without a plan and without --set
SHOWN = ("loss", "bits_per_byte", "tokens_per_second")


PLANNED = {  # fields whose values depend on the shape, the texts and the plan
    "steps": "number of steps that fit into --minutes on an idle machine",
    "context_tokens": f"positions of the shape, at most {MOST_CONTEXT_TOKENS:,}",
    "optimizer.learning_rate": "by the width of the shape, such as "
    + ", ".join(f"{SHAPES[name].learning_rate:g} ({name})" for name in (DEFAULT, "gpt2-small")),
    "evaluate_every_steps": f"steps / {EVALUATIONS}, at least {CLOSEST_STEPS}",
    "checkpoint_every_steps": f"steps / {CHECKPOINTS}, at least {CLOSEST_STEPS}",
    "samples.prompts": "none with --texts or --shards, otherwise prompts for Wikipedia",
    "samples.openings": f"{len(PROMPTS)} with --texts or --shards, otherwise 0",
    "machine.dtype": f"{DTYPE}, or a faster type found by the plan",
}


def settable_fields() -> str:
    """Return the help text on config fields, with the values of this command."""
    nothing = Prepared(Path(), Path(), SHAPES[DEFAULT].vocabulary, "")
    config = pretraining(SHAPES[DEFAULT], nothing, 1, DTYPE, Path(DEFAULT), "")
    fields = (
        replace(field, value=PLANNED.get(field.name, field.value))
        for field in settable(PretrainConfig, FIXED, config)
    )
    return listed(fields)


def run_pretrain(options: argparse.Namespace, shape: Shape, code_commit: str) -> int:
    """Run one pre-training to its end.

    Raises:
        ConfigError: a field cannot be assigned, a step does not fit into the memory, workers are
            requested without steps, the tokenizer is unusable, --shards is combined with --texts,
            or a run of this name has another configuration or other inputs.
    """
    is_timed, group = _checked_run(options)
    began, name = time.monotonic(), checked_name(options.name or shape.name)
    work: Path = options.work.absolute()
    output, directory = work / name, work / RUNS / name
    tokenizer = checked_tokenizer(options.tokenizer) if options.tokenizer else None

    def config(prepared: Prepared, steps: int, dtype: str) -> PretrainConfig:
        made = pretraining(shape, prepared, steps, dtype, output, code_commit)
        return assigned(made, options.set, FIXED)

    own = open_prepared(options.shards, tokenizer) if options.shards else None
    nothing = own or Prepared(work, work, shape.vocabulary, "")
    # Invalid assignments, texts and too large models fail here, before any file is written.
    steps = (draft := config(nothing, 1, DTYPE)).steps
    if options.texts:
        files = text_files(options.texts)
        check_same_texts(options.texts, directory)
        if draft.evaluate_every_steps:
            check_held_out(files, is_optional=True)
    if not group.workers:
        from training.recipes.pretraining.memory import check_memory  # imports torch

        check_memory(draft)
    with no_empty_folders(work), _shown() as shown:
        work.mkdir(parents=True, exist_ok=True)
        prepared = own or _prepare(options, shape.vocabulary, shown, tokenizer)
        from training.cluster.runner import StageRun, run_stages
        from training.recipes.pretraining.plan import SpeedWatcher, planned
        from training.stages import pretrain

        draft, dtype = config(prepared, 1, DTYPE), DTYPE
        watcher: Watcher = shown
        if is_timed:
            path, minutes = work / f"{name}-plan.json", options.minutes or shape.minutes
            is_followed = saved_step(directory) > 0 or finished_manifest(output) is not None
            plan = planned(path, str(shape), minutes, draft, began, shown.say, is_followed)
            steps, dtype = plan.steps, plan.dtype
            tokens = draft.batch_rows * draft.context_tokens
            shown.say(plan.text(tokens))
            watcher = SpeedWatcher(shown, plan.step_seconds(tokens))
        final = config(prepared, steps, dtype)
        # Other fields follow from the number of steps.
        check_same_run(final, directory, [*fields_named(options.set), "steps"], "name")
        if finished_manifest(output):
            shown.say(f"{name}: {FINISHED}")
        elif restart := resume_text(directory):
            shown.say(f"{name}: started {restart}")
        stage = StageRun(name, pretrain.run, final)
        prefix, tracking = bucket_prefix(options), tracking_in(work, options.track)
        (manifest,) = run_stages([stage], work / RUNS, group, watcher, prefix, tracking)
    report = manifest.report
    measured = f", {report['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in report else ""
    print(f"{report['parameters']:,} parameters{measured} after {report['steps']} steps")
    written = read_samples(directory / SAMPLES)
    for sample in written:
        if sample.step == written[-1].step:
            print(f"\n> {sample.prompt}{sample.text}")
    print(
        f"\nthe model is in {output}\n  page: {directory / REPORT}\n  chat: {chat_command(output)}"
    )
    for line in warning_lines(directory):
        print(f"  {line}")
    return 0


def _checked_run(options: argparse.Namespace) -> tuple[bool, Group]:
    """Return whether the number of steps is timed, and the workers.

    Raises:
        ConfigError: options contradict each other.
    """
    is_timed = not any(text.startswith("steps=") for text in options.set)
    most, fewest = options.workers
    group = Group(most, options.gpus_per_worker, fewest_workers=fewest)
    if is_timed and group.workers:
        raise ConfigError(
            "workers: the speed of workers is not measured; set the number of steps, such as "
            "--set steps=1000",
            field="workers",
            reason="CONFLICT",
        )
    if options.shards and options.texts:
        raise ConfigError(
            "shards: --shards and --texts exclude each other", field="shards", reason="CONFLICT"
        )
    if options.tokenizer and options.vocabulary:
        raise ConfigError(
            "vocabulary: is for a new tokenizer; --tokenizer names an existing one",
            field="vocabulary",
            reason="CONFLICT",
        )
    return is_timed, group


def run_scaling(options: argparse.Namespace, code_commit: str) -> int:
    """Train three sizes and write the report.

    Raises:
        ConfigError, TextError: the texts are unusable, or the name is that of other sizes.
    """
    work, name = options.work.absolute(), checked_name(options.name)
    if options.texts:
        check_held_out(text_files(options.texts), is_optional=False)
    with no_empty_folders(work), _shown() as shown:
        prepared = _prepare(options, SIZES_VOCABULARY, shown)
        from training.recipes.pretraining.scaling import run_name, train_sizes, write_scaling

        sizes = train_sizes(
            prepared,
            options.tokens_per_parameter,
            work / name,
            code_commit,
            shown,
            tracking_in(work, options.track),
        )
    law = write_scaling(sizes, options.tokens_per_parameter, work, name)
    for size in sizes:
        print(
            f"{size.name}: {size.tokens:,} tokens, "
            f"{size.points[-1].bits_per_byte:.4f} bits per byte"
        )
        run = run_name(size.name, options.tokens_per_parameter)
        for line in warning_lines(work / name / run):
            print(f"  {line}")
    print(f"bits per byte = {law.coefficient:.4g} * FLOPs ^ -{law.exponent:.4f}")
    print(work / f"{name}.html")
    return 0


def _prepare(
    options: argparse.Namespace, vocabulary: int, shown: StageDisplay, tokenizer: Path | None = None
) -> Prepared:
    """Prepare texts, tokenizer and shards."""

    def tokenised(progress: TokenisationProgress) -> None:
        detail = f"{progress.documents:,} texts, {progress.tokens:,} tokens"
        shown.show("tokenise", progress.read_bytes / progress.all_bytes, detail)

    work: Path = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    texts, licence = options.texts, ""
    if not texts:
        try:
            texts, licence = [write_texts(work)], LICENCE
        except DataError as error:
            raise ConfigError(str(error), **details_of(error)) from error
    if skipped := skipped_text(texts):
        shown.say(skipped)
    prepared = prepare(texts, licence, vocabulary, work, tokenised, tokenizer)
    shown.end("tokenise")
    if prepared.is_reused:
        shown.say(f"{prepared.shards_directory.name}: the tokens of these texts, made before")
    return prepared


@contextmanager
def _shown() -> Iterator[StageDisplay]:
    with open_display() as display:
        yield StageDisplay(display, SHOWN, digits=4)
