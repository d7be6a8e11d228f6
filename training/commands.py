"""Commands on the state of the loop: `loop`, `canary`, `snapshot`, `forget` and `lineage`.

Exit status of `loop`: 0 the run ended (promoted, rolled back, refused or passed), 3 another loop is
running, 4 too little feedback, 5 halted by an operator. Modules with imports of seconds are
imported on use.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from training.artifacts.lineage import Ancestry, erased_versions, trace
from training.artifacts.registry import Registry
from training.cluster.group import GPUS_HELP, parse_workers
from training.errors import ConfigError, UnavailableError
from training.reporting.progress import Lines, note_erased, open_display
from training.runs import FAILED, HaltedError, Runs, Step, exclusive, read_status
from training.runtime.context import DEVICE_HELP

if TYPE_CHECKING:
    from training.data.feedback.catalogue import Objects
    from training.erasure import ErasureResult
    from training.evaluation.canary import Reading
    from training.recipes.recipe import LoopConfig, Plan, Recipe
    from training.remote import FeedbackLog, TlsFiles
    from training.service_identity import ServiceIdentity

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

REPORTED_ERRORS = (ValueError, UnavailableError)
TOO_LITTLE, HALTED = 4, 5
NICENESS = 10  # requests of users have priority over training
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _nano(plan: Plan) -> LoopConfig:
    from training.recipes.nano import nano

    return nano(plan)


def _small(plan: Plan) -> LoopConfig:
    from training.recipes.small import small

    return small(plan)


RECIPES: Mapping[str, Recipe] = {"nano": _nano, "small": _small}


def describe(commands: Commands, state: argparse.ArgumentParser) -> None:
    """Add the commands to the command line.

    Args:
        state: parser with the options for the loop's state.
    """
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
    trial.add_argument(
        "--canary-users", type=int, metavar="N", help="rating users per version for a decision"
    )
    _describe_loop(commands, [state, trial])
    tried = commands.add_parser(
        "canary", parents=[state, trial], help="try an existing model directory on users"
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
    commands.add_parser("snapshot", parents=[state], help="take a snapshot now").set_defaults(
        command=snapshot
    )
    forgetting = commands.add_parser(
        "forget", parents=[state], help="apply erasures to training data; loop does this too"
    )
    forgetting.set_defaults(command=forget_erased)
    tracing = commands.add_parser(
        "lineage", parents=[state], help="feedback each version learned from, and its erasures"
    )
    subject = tracing.add_mutually_exclusive_group()
    subject.add_argument(
        "version", nargs="?", help="full account: data and consent, scores, gate, canary"
    )
    subject.add_argument("--answer", metavar="MESSAGE_ID", help="account of an answer's version")
    subject.add_argument(
        "--erased", action="store_true", help="only versions that learned from erased feedback"
    )
    tracing.set_defaults(command=lineage)


def _describe_loop(commands: Commands, parents: Sequence[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "loop", parents=parents, help="one run; an interrupted run is resumed"
    )
    command.add_argument(
        "--no-rollout", action="store_true", help="end after the gate, without users"
    )
    command.add_argument(
        "--workers",
        type=parse_workers,
        metavar="N or N..M",
        help="Ray workers; 0 trains in this process; a range continues with fewer workers after "
        "the loss of a machine",
    )
    command.add_argument("--gpus-per-worker", type=int, help=GPUS_HELP)
    command.add_argument("--device", help=DEVICE_HELP)
    command.add_argument(
        "--rollout-actors",
        type=int,
        help="Ray actors that sample for PPO; 0: the workers sample",
    )
    command.add_argument(
        "--checkpoints-in-bucket",
        action="store_true",
        default=None,
        help="write checkpoints to the bucket of TW_TRAINING_S3_*, not to the volume",
    )
    command.add_argument("--every", type=_seconds, metavar="6h", help="repeat with this period")
    command.add_argument(
        "--patience",
        type=_seconds,
        default=0.0,
        metavar="2m",
        help="time to wait for another loop on this state, or an unavailable service",
    )
    command.add_argument(
        "--scheduled",
        action="store_true",
        help="for schedulers: too little feedback and a halt exit with 0",
    )
    command.set_defaults(command=loop)


def loop(options: argparse.Namespace) -> int:
    """Run the loop once, or periodically with `--every`."""
    os.nice(NICENESS)
    # Process 1 of a container ignores SIGTERM without a handler.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        began = time.monotonic()
        status = _run_once(options)
        if options.every is None:
            return 0 if status in (TOO_LITTLE, HALTED) and options.scheduled else status
        time.sleep(max(0.0, options.every - (time.monotonic() - began)))


def _run_once(options: argparse.Namespace) -> int:
    from training.evaluation.canary_run import WallClock
    from training.evaluation.judges import judge_from
    from training.loop import run_loop
    from training.loop_run import HaltWatch, LoopEnvironment, NotEnoughFeedbackError
    from training.remote import FeedbackLog, RolloutClient

    with ExitStack() as stack:
        stack.enter_context(
            exclusive(options.state / "loop", f"recipe {options.recipe}", options.patience)
        )
        display = stack.enter_context(open_display())
        feedback = stack.enter_context(
            closing(
                FeedbackLog(options.feedback, _tls(options), options.patience, _identity(options))
            )
        )
        rollout = watch = None
        if not options.no_rollout:
            # The second client is for the thread of the watch, which never waits for the service.
            rollout, watched = (
                stack.enter_context(
                    closing(
                        RolloutClient(
                            options.generator, _tls(options), patience, _identity(options)
                        )
                    )
                )
                for patience in (options.patience, 0.0)
            )
            watch = stack.enter_context(
                HaltWatch(watched, partial(_in_canary, options.state), display.say)
            )
        env = LoopEnvironment(
            state=options.state.absolute(),
            feedback=feedback,
            objects=_objects(options),
            rollout=rollout,
            clock=WallClock(time.sleep),
            display=display,
            code_commit=code_commit(),
            halt_reason=lambda: watch.reason if watch else None,
            judge=judge_from(os.environ),
        )
        try:
            run_loop(options.recipe, adjusted_recipe(options), env)
        except NotEnoughFeedbackError:
            return TOO_LITTLE
        except HaltedError as error:
            display.say(str(error))
            return HALTED
        except REPORTED_ERRORS as error:
            if options.every is None:
                raise
            display.say(f"{FAILED}: {error}")
            return 1  # the service may be available again in the next run
    return 0


def _in_canary(state: Path) -> bool:
    status = read_status(state / "loop")
    return status is not None and status.step == "canary"


def canary(options: argparse.Namespace) -> int:
    """Run only the canary of an existing model directory; its users promote it or roll it back."""
    from training.evaluation.canary_run import WallClock, serve_canary
    from training.recipes.recipe import Plan
    from training.remote import FeedbackLog, RolloutClient

    config = adjusted_recipe(options)(
        Plan(options.version, options.directory, options.directory)
    ).canary
    with ExitStack() as stack:
        stack.enter_context(exclusive(options.state / "loop", f"canary {options.version}"))
        tls, identity = _tls(options), _identity(options)
        feedback = stack.enter_context(
            closing(FeedbackLog(options.feedback, tls, identity=identity))
        )
        rollout = stack.enter_context(
            closing(RolloutClient(options.generator, tls, identity=identity))
        )
        record = options.state / "loop" / "canaries" / options.version
        lines = Lines(sys.stdout)

        def watch(reading: Reading, passed: float) -> None:
            lines.move(Step("canary", progress=passed, detail=reading.text()))

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
        into = Runs(options.state / "loop").snapshots
        taken = take_snapshot(log, _objects(options), SnapshotConfig(), into, code_commit())
    print(taken.directory)
    return 0


def forget_erased(options: argparse.Namespace) -> int:
    """Apply pending erasures, as the loop does before each run."""
    with _exclusive_log(options, "erasures") as log:
        print(_apply_erasures(options, log).text())
    return 0


def lineage(options: argparse.Namespace) -> int:
    """Print a line per version, or the full account of a version or of an answer's version."""
    if not options.state.is_dir():
        raise ConfigError(
            f"state: folder {options.state} does not exist", field="state", reason="MISSING"
        )
    if version := _version_of_answer(options) if options.answer else options.version:
        from training.reporting.lineage import describe_version

        registry = Registry(options.state / "models")
        print(describe_version(version, options.state / "loop", registry))
        return 0
    for ancestry in _ancestries(options):
        if ancestry.erasures or ancestry.unknown or not options.erased:
            print(ancestry.text())
    return 0


def _version_of_answer(options: argparse.Namespace) -> str:
    from training.data.feedback.catalogue import find_answer
    from training.remote import FeedbackLog

    with closing(FeedbackLog(options.feedback, _tls(options), identity=_identity(options))) as log:
        found = find_answer(log, _objects(options), options.answer)
    if found is None or not found.model_version:
        raise ConfigError(
            f"answer: no finished turn in the feedback table has the answer {options.answer}; "
            "turns arrive some seconds after their end",
            field="answer",
            reason="UNKNOWN",
        )
    print(f"{'answer':<12}{options.answer}, arm {found.arm or 'unknown'}")
    return found.model_version


def _tls(options: argparse.Namespace) -> TlsFiles | None:
    from training.remote import TlsFiles

    return TlsFiles(*options.tls) if options.tls else None


def _identity(options: argparse.Namespace) -> ServiceIdentity | None:
    from training.service_identity import training_identity

    return training_identity(os.environ, options.state)


@contextmanager
def _exclusive_log(options: argparse.Namespace, doing: str) -> Iterator[FeedbackLog]:
    """Open the feedback log while no run is active.

    A run must not read data that is written or erased meanwhile.
    """
    from training.remote import FeedbackLog

    with (
        exclusive(options.state / "loop", doing),
        closing(FeedbackLog(options.feedback, _tls(options), identity=_identity(options))) as log,
    ):
        yield log


def _apply_erasures(options: argparse.Namespace, log: FeedbackLog) -> ErasureResult:
    from training.erasure import apply_erasures

    forgotten = apply_erasures(log, options.state / "loop", Registry(options.state / "models"))
    note_erased(options.state / "loop", erased_versions(_ancestries(options)))
    return forgotten


def _ancestries(options: argparse.Namespace) -> list[Ancestry]:
    return trace(Runs(options.state / "loop"), Registry(options.state / "models"))


def _objects(options: argparse.Namespace) -> Objects:
    """Return the bucket of TW_TRAINING_S3_*, or the directory of an embedded run."""
    from training.data.feedback.bucket import Bucket, bucket_location
    from training.data.feedback.catalogue import Directory

    place = bucket_location(os.environ)
    return Directory(options.state / "objects") if place is None else Bucket(place)


def adjusted_recipe(options: argparse.Namespace) -> Recipe:
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
        if options.canary_users is not None:
            config = replace(config, canary=replace(config.canary, min_users=options.canary_users))
        if options.workers is not None:
            most, fewest = options.workers
            config = replace(config, num_workers=most, fewest_workers=fewest)
        if options.device is not None:
            config = config.on_device(options.device)
        names = ("gpus_per_worker", "rollout_actors", "checkpoints_in_bucket")
        given = {name: getattr(options, name) for name in names}
        return replace(
            config, **{name: value for name, value in given.items() if value is not None}
        )

    return adjusted


def code_commit() -> str:
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
