"""Command line of training: `python -m training COMMAND`; `--help` lists the commands.

This is the only module that reads arguments and builds objects from them.

Exit status of `loop`: 0 the run ended (promoted, rolled back, refused or passed), 1 an error, 3
another loop is running, 4 too little feedback, 130 stopped by Ctrl-C or by SIGTERM, which a cluster
sends. Every training command that was stopped after a completed and saved step exits with 143 after
SIGTERM and with 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.artifacts.lineage import Ancestry, erased_versions, trace
from training.artifacts.registry import Registry
from training.cluster.group import GPUS_HELP, parse_workers
from training.decoding.arguments import describe as describe_generate
from training.errors import ConfigError, UnavailableError
from training.recipes.custom.arguments import describe as describe_custom
from training.recipes.nano_world.arguments import describe as describe_nano_base
from training.recipes.plan import describe as describe_plan
from training.recipes.pretraining.arguments import describe as describe_pretraining
from training.recipes.rlvr.arguments import describe as describe_rlvr
from training.recipes.tokenizer.commands import describe as describe_tokenizer
from training.reporting.commands import describe as describe_reports
from training.reporting.progress import Lines, note_erased, open_display
from training.runs import FAILED, LoopRunningError, Runs, Step, exclusive
from training.runtime.context import DEVICE_HELP, StoppedError
from training.runtime.outputs import check_writable, describe_os_error
from training.verification.commands import describe as describe_tasks

if TYPE_CHECKING:
    from training.data.feedback.catalogue import Objects
    from training.erasure import ErasureResult
    from training.evaluation.canary import Reading
    from training.recipes.recipe import LoopConfig, Plan, Recipe
    from training.remote import FeedbackLog, TlsFiles

REPORTED_ERRORS = (ValueError, UnavailableError)
# Options that name output paths. Only some commands write into the state.
OUTPUTS, STATE = ("output", "page", "work"), "state"
LOCKED, TOO_LITTLE, STOPPED, BY_SIGNAL = 3, 4, 130, 128
NICENESS = 10  # requests of users have priority over training
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _nano(plan: Plan) -> LoopConfig:
    from training.recipes.nano import nano

    return nano(plan)


def _small(plan: Plan) -> LoopConfig:
    from training.recipes.small import small

    return small(plan)


RECIPES: Mapping[str, Recipe] = {"nano": _nano, "small": _small}


def main(arguments: Sequence[str]) -> int:
    """Run the command of the first argument; return the exit status."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    outputs = _given(options, OUTPUTS)
    try:
        for output in outputs:
            check_writable(output)
        return command(options)
    except LoopRunningError as error:
        print(error, file=sys.stderr)
        return LOCKED
    except REPORTED_ERRORS as error:
        print(f"{FAILED}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise  # an error of the code, not of a file
        print(
            f"{FAILED}: {describe_os_error(error, [*outputs, *_given(options, (STATE,))])}",
            file=sys.stderr,
        )
        return 1
    except StoppedError as error:
        print(f"{error}; the same command resumes there", file=sys.stderr)
        return BY_SIGNAL + error.stop_signal
    except KeyboardInterrupt:
        print("stopped; the same command resumes from the last checkpoint", file=sys.stderr)
        return STOPPED


def loop(options: argparse.Namespace) -> int:
    """Run the loop once, or periodically with `--every`."""
    os.nice(NICENESS)
    # Process 1 of a container ignores SIGTERM without a handler.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        began = time.monotonic()
        status = _run_once(options)
        if options.every is None:
            return 0 if status == TOO_LITTLE and options.scheduled else status
        time.sleep(max(0.0, options.every - (time.monotonic() - began)))


def canary(options: argparse.Namespace) -> int:
    """Run only the canary of an existing model directory; its users promote it or roll it back."""
    from training.evaluation.canary_run import WallClock, serve_canary
    from training.loop import reading_text
    from training.recipes.recipe import Plan
    from training.remote import FeedbackLog, RolloutClient

    config = _recipe(options)(Plan(options.version, options.directory, options.directory)).canary
    with ExitStack() as stack:
        stack.enter_context(exclusive(options.state / "loop", f"canary {options.version}"))
        feedback = stack.enter_context(closing(FeedbackLog(options.feedback, _tls(options))))
        rollout = stack.enter_context(closing(RolloutClient(options.generator, _tls(options))))
        record = options.state / "loop" / "canaries" / options.version
        lines = Lines(sys.stdout)

        def watch(reading: Reading, passed: float) -> None:
            lines.move(Step("canary", progress=passed, detail=reading_text(reading)))

        clock = WallClock(time.sleep)
        end = serve_canary(
            options.version, options.directory, config, rollout, feedback, clock, record, watch
        )
    lines.say(f"{end.verdict}: {end.reason}")
    return 0


def snapshot(options: argparse.Namespace) -> int:
    """Take a snapshot of the committed feedback."""
    from training.data.feedback.snapshot import SnapshotConfig, take_snapshot

    with _exclusive_log(options, "a snapshot") as log:
        _apply_erasures(options, log)
        into = _runs(options).snapshots
        taken = take_snapshot(log, _objects(options), SnapshotConfig(), into, _code_commit())
    print(taken.directory)
    return 0


def forget_erased(options: argparse.Namespace) -> int:
    """Apply pending erasures, as the loop does before each run."""
    with _exclusive_log(options, "erasures") as log:
        print(_apply_erasures(options, log).text())
    return 0


def lineage(options: argparse.Namespace) -> int:
    """Print a line per version: its stage, the feedback it learned from, and erasures."""
    if not options.state.is_dir():
        raise ConfigError(
            f"state: folder {options.state} does not exist", field="state", reason="MISSING"
        )
    for ancestry in _ancestries(options):
        if ancestry.erasures or ancestry.unknown or not options.erased:
            print(ancestry.text())
    return 0


def _given(options: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    return [path for name in names if (path := getattr(options, name, None)) is not None]


def _tls(options: argparse.Namespace) -> TlsFiles | None:
    from training.remote import TlsFiles

    return TlsFiles(*options.tls) if options.tls else None


@contextmanager
def _exclusive_log(options: argparse.Namespace, doing: str) -> Iterator[FeedbackLog]:
    """Open the feedback log while no run is active.

    A run must not read data that is written or erased meanwhile.
    """
    from training.remote import FeedbackLog

    with (
        exclusive(options.state / "loop", doing),
        closing(FeedbackLog(options.feedback, _tls(options))) as log,
    ):
        yield log


def _apply_erasures(options: argparse.Namespace, log: FeedbackLog) -> ErasureResult:
    from training.erasure import apply_erasures

    forgotten = apply_erasures(log, options.state / "loop", _registry(options))
    note_erased(options.state / "loop", erased_versions(_ancestries(options)))
    return forgotten


def _runs(options: argparse.Namespace) -> Runs:
    return Runs(options.state / "loop")


def _registry(options: argparse.Namespace) -> Registry:
    return Registry(options.state / "models")


def _ancestries(options: argparse.Namespace) -> list[Ancestry]:
    return trace(_runs(options), _registry(options))


def _run_once(options: argparse.Namespace) -> int:
    from training.evaluation.canary_run import WallClock
    from training.loop import LoopEnvironment, NotEnoughFeedbackError, run_loop
    from training.remote import FeedbackLog, RolloutClient

    with ExitStack() as stack:
        stack.enter_context(
            exclusive(options.state / "loop", f"recipe {options.recipe}", options.patience)
        )
        display = stack.enter_context(open_display())
        feedback = stack.enter_context(
            closing(FeedbackLog(options.feedback, _tls(options), options.patience))
        )
        rollout = (
            None
            if options.no_rollout
            else stack.enter_context(
                closing(RolloutClient(options.generator, _tls(options), options.patience))
            )
        )
        env = LoopEnvironment(
            state=options.state.absolute(),
            feedback=feedback,
            objects=_objects(options),
            rollout=rollout,
            clock=WallClock(time.sleep),
            display=display,
            code_commit=_code_commit(),
        )
        try:
            run_loop(options.recipe, _recipe(options), env)
        except NotEnoughFeedbackError:
            return TOO_LITTLE
        except REPORTED_ERRORS as error:
            if options.every is None:
                raise
            display.say(f"{FAILED}: {error}")
            return 1  # the service may be available again in the next run
    return 0


def _objects(options: argparse.Namespace) -> Objects:
    """Return the bucket of TW_TRAINING_S3_*, or the directory of an embedded run."""
    from training.data.feedback.bucket import Bucket, bucket_location
    from training.data.feedback.catalogue import Directory

    place = bucket_location(os.environ)
    return Directory(options.state / "objects") if place is None else Bucket(place)


def _recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe with the changes of the command line."""
    recipe = RECIPES[options.recipe]

    def adjusted(plan: Plan) -> LoopConfig:
        config = recipe(plan)
        if options.canary_share is not None:
            config = replace(config, canary=replace(config.canary, share=options.canary_share))
        if options.canary_seconds is not None:
            config = replace(
                config, canary=replace(config.canary, max_seconds=options.canary_seconds)
            )
        if options.workers is not None:
            most, fewest = options.workers
            config = replace(config, num_workers=most, fewest_workers=fewest)
        given = {
            "gpus_per_worker": options.gpus_per_worker,
            "rollout_actors": options.rollout_actors,
        }
        given |= {"checkpoints_in_bucket": options.checkpoints_in_bucket}
        if options.device is not None:
            config = config.on_device(options.device)
        return replace(
            config, **{name: value for name, value in given.items() if value is not None}
        )

    return adjusted


def _code_commit() -> str:
    """Return the commit of the checkout; "" if the code was installed without a checkout."""
    git = shutil.which("git")
    if git is None:
        return ""
    found = subprocess.run(  # noqa: S603 - no input from outside
        [git, "rev-parse", "HEAD"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip()


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30m, 6h or 1d")
    return float(match[1]) * UNITS[match[2]]


class _Parser(argparse.ArgumentParser):
    """Argument parser that prints the usage of the command for unknown options.

    argparse prints the usage of the root parser instead.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = _Parser(
        prog="python -m training", description="From thumbs to a better model."
    )
    commands = parser.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state",
        type=Path,
        default=Path(".state"),
        help="folder of the state (default .state); it contains the objects, "
        "unless TW_TRAINING_S3_* names a bucket",
    )
    common.add_argument(
        "--feedback", default="127.0.0.1:50056", metavar="HOST:PORT", help="the feedback service"
    )
    common.add_argument(
        "--tls",
        type=Path,
        nargs=3,
        metavar=("CERTIFICATE", "KEY", "AUTHORITY"),
        help="client certificate and key of training, and its trusted authorities (for mutual TLS)",
    )
    trial = argparse.ArgumentParser(add_help=False)
    trial.add_argument("--recipe", choices=sorted(RECIPES), required=True)
    trial.add_argument(
        "--generator",
        default="127.0.0.1:50055",
        metavar="HOST:PORT",
        help="the generator's rollout service",
    )
    trial.add_argument(
        "--canary-share", type=float, metavar="0..0.5", help="share of users who get the candidate"
    )
    trial.add_argument(
        "--canary-seconds", type=float, help="longest canary; without a decision, it is rolled back"
    )
    _describe_loop(
        commands.add_parser(
            "loop", parents=[common, trial], help="one run; an interrupted run is resumed"
        )
    )
    tried = commands.add_parser(
        "canary", parents=[common, trial], help="try an existing model directory on users"
    )
    tried.add_argument("--version", required=True, help="version in its manifest")
    tried.add_argument("--directory", type=Path, required=True)
    tried.set_defaults(
        command=canary,
        workers=None,
        gpus_per_worker=None,
        rollout_actors=None,
        checkpoints_in_bucket=None,
        device=None,
    )
    commands.add_parser("snapshot", parents=[common], help="take a snapshot now").set_defaults(
        command=snapshot
    )
    forgetting = commands.add_parser(
        "forget", parents=[common], help="apply erasures to training data; loop does this too"
    )
    forgetting.set_defaults(command=forget_erased)
    tracing = commands.add_parser(
        "lineage", parents=[common], help="feedback each version learned from, and its erasures"
    )
    tracing.add_argument(
        "--erased", action="store_true", help="only versions that learned from erased feedback"
    )
    tracing.set_defaults(command=lineage)
    describe_reports(commands, common)
    describe_generate(commands)
    describe_nano_base(commands, _code_commit)
    describe_pretraining(commands, _code_commit)
    describe_tokenizer(commands, _code_commit)
    describe_tasks(commands)
    describe_custom(commands, _code_commit)
    describe_rlvr(commands, _code_commit)
    describe_plan(commands)
    return parser


def _describe_loop(turn: argparse.ArgumentParser) -> None:
    turn.add_argument("--no-rollout", action="store_true", help="end after the gate, without users")
    turn.add_argument(
        "--workers",
        type=parse_workers,
        metavar="N or N..M",
        help="Ray workers; 0 trains in this process; a range continues with fewer workers after "
        "the loss of a machine",
    )
    turn.add_argument("--gpus-per-worker", type=int, help=GPUS_HELP)
    turn.add_argument("--device", help=DEVICE_HELP)
    turn.add_argument(
        "--rollout-actors",
        type=int,
        help="Ray actors that sample for PPO; 0: the workers sample",
    )
    turn.add_argument(
        "--checkpoints-in-bucket",
        action="store_true",
        default=None,
        help="write checkpoints to the bucket of TW_TRAINING_S3_*, not to the volume",
    )
    turn.add_argument("--every", type=_seconds, metavar="6h", help="repeat with this period")
    turn.add_argument(
        "--patience",
        type=_seconds,
        default=0.0,
        metavar="2m",
        help="time to wait for another loop on this state, or an unavailable service",
    )
    turn.add_argument(
        "--scheduled",
        action="store_true",
        help="for schedulers: too little feedback exits with 0",
    )
    turn.set_defaults(command=loop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
