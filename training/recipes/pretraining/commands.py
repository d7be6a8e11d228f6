"""`python -m training pretrain` and `python -m training scaling`: texts, tokenizer, shards, and the runs. The same command goes on after
a kill.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from training.cluster.runner import StageRun, run_stage
from training.cluster.sample_log import SAMPLES, read_samples
from training.data.token_shards import Tokenised
from training.manifest import Manifest
from training.progress import ShownStages, open_display
from training.recipes.guardrail.packages import DataError
from training.recipes.pretraining.plan import planned
from training.recipes.pretraining.recipe import RECIPES, SIZES_VOCABULARY, pretraining
from training.recipes.pretraining.scaling import train_sizes, write_scaling
from training.recipes.pretraining.texts import LICENCE, Prepared, prepare, write_texts
from training.stages import pretrain
from training.stages.context import ConfigError

SHOWN = ("loss", "bits_per_byte", "tokens_per_second")


def describe(commands: argparse._SubParsersAction[argparse.ArgumentParser], code_commit: Callable[[], str]) -> None:
    """Add both commands."""
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument("--work", type=Path, required=True, help="folder of the texts, the shards and the runs")
    work.add_argument(
        "--texts",
        type=Path,
        nargs="+",
        metavar="PATH",
        help='.txt, .jsonl with {"text"} a line, or folders of them; without it openings of Wikipedia\'s articles',
    )
    one = commands.add_parser("pretrain", parents=[work], help="make a small decoder from nothing")
    one.add_argument("--recipe", choices=sorted(RECIPES), required=True)
    one.add_argument(
        "--minutes", type=_positive, help="how long the whole may take about; the recipe's own if not given"
    )
    one.set_defaults(command=lambda options: run_pretrain(options, code_commit()))
    three = commands.add_parser("scaling", parents=[work], help="loss over compute for three sizes, as a page")
    three.add_argument("--tokens-per-parameter", type=_positive, default=2.0, help="20 is Chinchilla's (default 2)")
    three.set_defaults(command=lambda options: run_scaling(options, code_commit()))


def run_pretrain(options: argparse.Namespace, code_commit: str) -> int:
    """One recipe to its end."""
    recipe = RECIPES[options.recipe]
    work: Path = options.work.absolute()
    with _shown() as shown:
        prepared = _prepare(options, recipe.vocabulary, shown)
        output = work / options.recipe
        draft = pretraining(recipe.shape, prepared, 1, "float32", output, code_commit)
        plan = planned(work / f"{options.recipe}-plan.json", options.recipe, options.minutes or recipe.minutes, draft)
        config = pretraining(recipe.shape, prepared, plan.steps, plan.dtype, output, code_commit)
        told = partial(shown.move, pretrain.STAGE)
        manifest = run_stage(StageRun(options.recipe, pretrain.run, config), work / "runs", told)
        shown.end(pretrain.STAGE)
    _print_result(manifest, work / "runs" / options.recipe / SAMPLES)
    print(f"\nthe model is in {output}")
    return 0


def run_scaling(options: argparse.Namespace, code_commit: str) -> int:
    """Three sizes and the page about them."""
    work: Path = options.work.absolute()
    with _shown() as shown:
        prepared = _prepare(options, SIZES_VOCABULARY, shown)
        sizes = train_sizes(prepared, options.tokens_per_parameter, work / "scaling", code_commit, shown)
    law = write_scaling(sizes, options.tokens_per_parameter, work)
    for size in sizes:
        print(f"{size.name}: {size.tokens:,} tokens, {size.points[-1].bits_per_byte:.4f} bits per byte")
    print(f"bits per byte = {law.coefficient:.4g} * FLOPs ^ -{law.exponent:.4f}")
    print(work / "scaling.html")
    return 0


def _prepare(options: argparse.Namespace, vocabulary: int, shown: ShownStages) -> Prepared:
    """Texts, tokenizer and shards."""

    def tokenised(told: Tokenised) -> None:
        detail = f"{told.documents:,} texts, {told.tokens:,} tokens"
        shown.show("tokenise", told.read_bytes / told.all_bytes, detail)

    work: Path = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    own: list[Path] | None = options.texts
    texts, licence = (own, "") if own else ([_encyclopedia(work)], LICENCE)
    prepared = prepare(texts, licence, vocabulary, work, tokenised)
    shown.end("tokenise")
    return prepared


@contextmanager
def _shown() -> Iterator[ShownStages]:
    with open_display() as display:
        yield ShownStages(display, SHOWN, digits=4)


def _encyclopedia(work: Path) -> Path:
    try:
        return write_texts(work)
    except DataError as error:
        raise ConfigError(str(error)) from error


def _print_result(manifest: Manifest, samples: Path) -> None:
    report = manifest.report
    print(
        f"{report['parameters']:,} parameters, {report['bits_per_byte']:.4f} bits per byte after {report['steps']} steps"
    )
    written = read_samples(samples)
    for sample in written:
        if sample.step == written[-1].step:
            print(f"\n> {sample.prompt}{sample.text}")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not more than 0")
    return value
