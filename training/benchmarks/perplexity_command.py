"""Command `thumbwheel evaluate perplexity MODEL --text FILE…`."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from training.artifacts.manifest import MANIFEST, hash_files, read_manifest
from training.artifacts.scores import TASK, ScoredModel, TaskScore
from training.benchmarks.commands import model_arguments, model_choice, score_store
from training.benchmarks.models import URL, ModelChoice, opened
from training.benchmarks.perplexity import (
    DEFAULT_WINDOW,
    MAX_BYTES,
    EndpointScorer,
    TokenScorer,
    choose_windows,
    hash_prompts,
    measure,
    read_documents,
)
from training.benchmarks.tasks import BENCHMARKS
from training.data.corpus import TEXTS_HELP, skipped_text
from training.errors import ConfigError
from training.model.config import read_language_model
from training.runtime.context import DEVICE_HELP, check_device
from training.runtime.paths import check_writable

if TYPE_CHECKING:
    from training.figures import Estimate

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

MIN_DOCUMENTS = 2  # for a standard error


def describe(commands: Commands, state: argparse.ArgumentParser) -> None:
    """Add `perplexity` to the command line.

    Args:
        state: parser with the options for the state.
    """
    parser = commands.add_parser(
        "perplexity",
        parents=[state, model_arguments()],
    )
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE",
        help=f"{TEXTS_HELP}; at most {MAX_BYTES >> 20} MiB",
    )
    parser.add_argument(
        "--window",
        type=int,
        metavar="TOKENS",
        help=f"context of long texts (default: {DEFAULT_WINDOW}, at most the model's)",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="TOKENS",
        help="distance of windows (default: half a window); smaller is exacter and slower",
    )
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help=f"for a directory: {DEVICE_HELP}"
    )
    parser.add_argument(
        "--store-as",
        default="",
        metavar="TASK",
        help=f"store bits per byte as this task; needs {MIN_DOCUMENTS} texts or more",
    )
    parser.set_defaults(command=perplexity, resumption="nothing was stored")


def check_task(options: argparse.Namespace, texts: int) -> None:
    """Check that the figures of a number of texts can be stored as the task of the options.

    Raises:
        ConfigError: there are too few texts, or the name cannot be that of a task.
    """
    if options.store_as and texts < MIN_DOCUMENTS:
        raise ConfigError(
            f"--store-as: {texts} text has no standard error",
            field="store_as",
            reason="TOO_FEW",
            limit=f"at least {MIN_DOCUMENTS} texts",
        )
    if options.store_as in BENCHMARKS or not TASK.fullmatch(options.store_as or "none"):
        raise ConfigError(
            f"--store-as: {options.store_as!r} is a benchmark, or no name of a task",
            field="store_as",
            reason="CONFLICT",
            limit="1 to 64 of a-z, 0-9, '_', '.', '-', and no benchmark",
        )
    if options.store_as:
        check_writable(options.state)


def perplexity(options: argparse.Namespace) -> int:
    """Measure the model, print the figures, and store them if asked."""
    choice = model_choice(options)
    documents = read_documents(options.text)
    if skipped := skipped_text(options.text):
        print(skipped, file=sys.stderr)
    check_task(options, len(documents))
    began = time.monotonic()
    with _opened(choice, options.device) as (model, scorer):
        if options.store_as:
            score_store(options).require_model(model, [options.store_as])
        windows = choose_windows(scorer, options.window, options.stride)
        score = measure(scorer, documents, windows)
    seconds = time.monotonic() - began
    size = f"{score.bytes:,} bytes, {score.tokens:,} tokens"
    print(f"model         {model.version}")
    print(f"texts         {len(documents):,} ({size})")
    print(f"windows       {windows.tokens:,} tokens, stride {windows.stride:,}")
    print(f"bits/byte     {figure_text(score.bits_per_byte)}")
    print(f"nats/token    {figure_text(score.nats_per_token)}")
    print(f"perplexity    {figure_text(score.perplexity)}")
    print(f"seconds       {seconds:.1f}")
    if options.store_as:
        ids = json.dumps([document.item for document in documents])
        figures = {"nats_per_token": score.nats_per_token, "perplexity": score.perplexity}
        # An infinite perplexity is no JSON number.
        finite = {name: one.value for name, one in figures.items() if math.isfinite(one.value)}
        stored = TaskScore(
            version=model.version,
            task=options.store_as,
            metric="bits_per_byte",
            value=score.bits_per_byte.value,
            standard_error=score.bits_per_byte.error,
            items=len(documents),
            items_sha256=hashlib.sha256(ids.encode()).hexdigest(),
            prompts_sha256=hash_prompts(documents, windows),
            higher_is_better=False,
            seconds=round(seconds, 3),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            breakdown={**finite, "tokens": score.tokens, "bytes": score.bytes},
            source=model.source,
            model_sha256=model.sha256,
        )
        items = [document.as_item() for document in score.documents]
        if note := score_store(options).offer(stored, items):
            print(f"{options.store_as}: {note}", file=sys.stderr)
    return 0


def figure_text(figure: Estimate) -> str:
    """Return a figure with its standard error, without digits below the error's second."""
    if math.isinf(figure.error):
        return f"{figure.value:.4f} (no standard error: one text)"
    if figure.error < 1:
        return f"{figure.value:.4f} ± {figure.error:.4f}"
    digits = 1 - math.floor(math.log10(figure.error))  # two significant digits of the error
    decimals = max(0, digits)
    return (
        f"{round(figure.value, digits):,.{decimals}f} ± {round(figure.error, digits):,.{decimals}f}"
    )


@contextmanager
def _opened(choice: ModelChoice, device: str) -> Iterator[tuple[ScoredModel, TokenScorer]]:
    """Load the model of a directory or version, or connect to the URL, in the block."""
    if URL.match(choice.model):
        with opened(choice) as served:
            yield served.scored(), EndpointScorer(served.endpoint, served.window_tokens)
        return
    directory = choice.directory()
    check_device(device)
    read_language_model(directory, "model")
    version, sha256 = directory.name, ""
    if (directory / MANIFEST).is_file():
        version, sha256 = read_manifest(directory).version, hash_files(directory)
    # Imports torch, so directory and device are checked before.
    from training.benchmarks.local_model import LocalModel

    scored = ScoredModel(choice.version or version, sha256=sha256)
    yield scored, LocalModel(directory, device)
