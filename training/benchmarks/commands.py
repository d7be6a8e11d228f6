"""Command `thumbwheel evaluate MODEL --tasks …`: scores of a model on benchmarks."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from training.artifacts.scores import ScoreStore, TaskScore
from training.benchmarks.models import URL, ModelChoice, distinguish, opened
from training.benchmarks.tasks import BENCHMARKS, CODE, QUICK, QUICK_ITEMS, Benchmark, chosen, load
from training.errors import ConfigError, details_of
from training.figures import Z_95, Estimate, share_bounds
from training.runtime.paths import check_writable, read_file
from training.serving.connection import EndpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from training.benchmarks.code_tasks import Decoding
    from training.benchmarks.runner import Evaluated

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

REPORT_SECONDS = 15.0
SAMPLED_TEMPERATURE = 0.8  # Chen et al. 2021 for pass@100
RESUMPTION = "finished items are kept, and the same command resumes after them"
LOOK = "for a look, not for the gate: a subset of the items"


def describe(commands: Commands, state: argparse.ArgumentParser) -> None:
    """Add `evaluate` to the command line.

    Args:
        state: parser with the options for the state.
    """
    parser = commands.add_parser(
        "evaluate",
        parents=[state, model_arguments()],
        epilog="`thumbwheel evaluate perplexity --help` and `thumbwheel evaluate probes --help`: "
        "bits per byte of texts, and safety, sycophancy, knowledge and style.",
    )
    parser.add_argument(
        "--tasks",
        metavar="NAMES",
        help='benchmarks separated by commas, "all", or "list" to list them',
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ITEMS} items of {', '.join(QUICK)}; {LOOK}",
    )
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"at most N items of each benchmark; {LOOK}"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        metavar="N",
        help="programs for each item of humaneval and mbpp, for pass@k; stored beside the greedy"
        " score, never in its place",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help=f"temperature of several samples (default: {SAMPLED_TEMPERATURE:g})",
    )
    parser.add_argument(
        "--restart", action="store_true", help="compute finished items of these benchmarks again"
    )
    parser.set_defaults(command=evaluate, resumption=RESUMPTION)


def model_arguments() -> argparse.ArgumentParser:
    """Return the parser of the options that choose a model, for all evaluations."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="model directory, version of the registry, or URL of an OpenAI-compatible endpoint",
    )
    parser.add_argument(
        "--served-name", default="", metavar="NAME", help="name of the model at the URL"
    )
    parser.add_argument(
        "--version",
        default="",
        metavar="NAME",
        help="name under which scores are stored (default: the name of the model)",
    )
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="file with the key of the URL"
    )
    return parser


def model_choice(options: argparse.Namespace) -> ModelChoice:
    """Return the chosen model.

    Raises:
        ConfigError: no model is given, it does not exist, the file of the key is unreadable, or an
            option for a URL is given without one.
    """
    if not options.model:
        raise ConfigError(
            "model: a directory, a version or a URL is needed", field="model", reason="MISSING"
        )
    file = options.key_file
    key = read_file("--key-file", file).strip() if file is not None else ""
    choice = ModelChoice(options.model, options.state, options.served_name, options.version, key)
    if URL.match(choice.model):
        return choice
    for name in ("served_name", "key_file"):
        if getattr(options, name):
            raise ConfigError(
                f"--{name.replace('_', '-')}: only for a URL",
                field=name,
                reason="CONFLICT",
                limit="a URL as model",
            )
    choice.directory()  # before the imports of the evaluation
    return choice


def score_store(options: argparse.Namespace) -> ScoreStore:
    """Return the store of the scores in the loop's state."""
    if not options.state.is_dir():
        print(f"no state folder {options.state}: it is created for the scores", file=sys.stderr)
    return ScoreStore(options.state / "loop")


def evaluate(options: argparse.Namespace) -> int:
    """Evaluate the chosen benchmarks, print a table and store the scores."""
    if options.tasks == "list":
        for benchmark in BENCHMARKS.values():
            print(
                f"{benchmark.name:<15}{benchmark.items:>7}  {benchmark.metric:<12}{benchmark.about}"
            )
        return 0
    if options.quick and (options.tasks or options.limit is not None):
        raise ConfigError(
            "--quick: cannot be combined with --tasks or --limit, because it has its own",
            field="quick",
            reason="CONFLICT",
            limit="without --tasks and --limit",
        )
    names = QUICK if options.quick else [name for name in (options.tasks or "").split(",") if name]
    limit = QUICK_ITEMS if options.quick else options.limit
    benchmarks = chosen(names)
    decoding = _decoding(options, benchmarks)
    choice = model_choice(options)
    from training.benchmarks.runner import MIN_ITEMS

    if limit is not None and limit < MIN_ITEMS:
        raise ConfigError(
            f"--limit: {limit} items are too few for a standard error",
            field="limit",
            reason="OUT_OF_RANGE",
            limit=f"at least {MIN_ITEMS}",
        )
    check_writable(options.state)
    # Without a handler SIGTERM would leave the model server of a directory running.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = run_benchmarks(
        benchmarks, choice, score_store(options), limit, options.restart, decoding
    )
    print(table([done.score for done in found]))
    return 0


def _decoding(options: argparse.Namespace, benchmarks: Sequence[Benchmark]) -> Decoding:
    """Return the decoding of programs.

    Raises:
        ConfigError: a value is out of range, or a benchmark has answers other than programs.
    """
    from training.benchmarks.code_tasks import Decoding

    temperature = options.temperature
    if temperature is None:
        temperature = 0.0 if options.samples == 1 else SAMPLED_TEMPERATURE
    decoding = Decoding(options.samples, temperature)
    others = [benchmark.name for benchmark in benchmarks if benchmark.name not in CODE]
    if decoding.samples > 1 and others:
        raise ConfigError(
            f"--samples: {', '.join(others)} has no pass@k, only {', '.join(CODE)}",
            field="samples",
            reason="CONFLICT",
            limit=", ".join(CODE),
        )
    return decoding


def run_benchmarks(
    benchmarks: Sequence[Benchmark],
    choice: ModelChoice,
    store: ScoreStore,
    limit: int | None = None,
    restart: bool = False,
    decoding: Decoding | None = None,
) -> list[Evaluated]:
    """Evaluate a model on benchmarks and store the scores; see `runner.Run`.

    Args:
        restart: discard finished items, and replace scores of another model of this name.
        decoding: of programs; greedy by default.

    Raises:
        ScoreError: another model has scores under this name.
    """
    from training.benchmarks.code_tasks import LIMITS, Decoding, read_items
    from training.benchmarks.data import rows
    from training.benchmarks.language_model import EndpointModel
    from training.benchmarks.runner import Run, evaluate_code
    from training.benchmarks.runner import evaluate as evaluate_texts
    from training.verification.sandbox.runs import open_sandbox

    sandbox = cache(partial(open_sandbox, os.environ, LIMITS))
    if any(benchmark.name in CODE for benchmark in benchmarks):
        sandbox()  # a missing sandbox is reported before hours of other benchmarks

    decoding = decoding or Decoding()
    found = []
    with ExitStack() as stack:
        judge = stack.enter_context(_MathJudge())
        model = distinguish(stack.enter_context(opened(choice)), store.root)
        language_model = EndpointModel(model)
        scored = model.scored()
        if not restart:
            tasks = [decoding.task(b.name) if b.name in CODE else b.name for b in benchmarks]
            store.require_model(scored, tasks)
        stack.enter_context(resumable())
        run = Run(scored, model.digest, store, limit, restart)
        for benchmark in benchmarks:
            report = _progress(benchmark.name)
            if benchmark.name in CODE:
                items = read_items(benchmark.name, rows(benchmark.name))
                done = evaluate_code(
                    benchmark, items, language_model, sandbox(), run, report, decoding
                )
            else:
                parts = load(benchmark, judge)
                done = evaluate_texts(benchmark, parts, language_model, run, report)
            found.append(done)
            _note(done)
    return found


@contextmanager
def resumable() -> Iterator[None]:
    """Add the way to resume to an error of the endpoint in the block."""
    try:
        yield
    except EndpointError as error:
        raise EndpointError(f"{error.text}; {RESUMPTION}", **details_of(error)) from error


class _MathJudge:
    """Scores of mathematical answers, parsed in disposable processes."""

    def __enter__(self) -> Callable[[str, str], float]:
        from training.verification.checks import Mathematics
        from training.verification.workers import Workers

        self._workers = Workers(1)
        return lambda expected, response: (
            self._workers.judge(Mathematics(expected), response).reward
        )

    def __exit__(self, *_: object) -> None:
        self._workers.close()


def _progress(name: str) -> Callable[[int, int, float], None]:
    reported = time.monotonic()

    def report(done: int, of: int, seconds: float) -> None:
        nonlocal reported
        if time.monotonic() - reported >= REPORT_SECONDS and done < of:
            reported = time.monotonic()
            print(
                f"{name}: {done} of {of} items, {seconds:.0f} s, "
                f"about {seconds / done * (of - done):.0f} s left",
                file=sys.stderr,
            )

    return report


def _note(done: Evaluated) -> None:
    notes = []
    if done.reused:
        notes.append(f"{done.reused} of {done.score.items} items from an earlier evaluation")
    if done.shortened:
        notes.append(f"{done.shortened} prompts shortened to the window of the model")
    if done.note:
        notes.append(done.note)
    if notes:
        print(f"{done.score.task}: {'; '.join(notes)}", file=sys.stderr)


def table(scores: Sequence[TaskScore]) -> str:
    """Return scores with 95 % intervals as a table for the terminal."""
    width = max([15, *(len(score.task) + 2 for score in scores)])
    lines = [
        f"{'task':<{width}}{'metric':<13}{'score':>8}{'error':>8}{'95 % interval':>18}"
        f"{'chance':>8}{'items':>8}{'seconds':>9}"
    ]
    for score in scores:
        share = Estimate(score.value, score.standard_error, score.items, score.items)
        low, high = share_bounds(share, Z_95)
        chance = "" if score.chance is None else f"{score.chance:.3f}"
        mark = "" if score.is_complete else " *"
        lines.append(
            f"{score.task:<{width}}{score.metric:<13}{score.value:>8.4f}{score.standard_error:>8.4f}"
            f"{f'{low:.3f} to {high:.3f}':>18}{chance:>8}{score.items:>8}"
            f"{score.seconds:>9.0f}{mark}"
        )
        lines += [
            f"{'':<{width}}{name:<13}{value:>8.4f}"
            for name, value in score.breakdown.items()
            if name.startswith("pass@") and name != score.metric
        ]
    if not all(score.is_complete for score in scores):
        lines.append(f"* {LOOK}")
    return "\n".join(lines)
