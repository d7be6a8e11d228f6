"""Commands that train and try versions: `loop` and `canary`.

Exit status of `loop`: 0 the run ended (promoted, rolled back, refused, held or passed), 3 another
loop is running, 4 too little feedback, 5 halted by an operator. Modules with imports of seconds are
imported on use.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from training.cluster.group import parse_workers
from training.data_commands import (
    add_review_option,
    code_commit,
    identity,
    objects,
    quarantined,
    require_services,
    require_state,
    tls_files,
)
from training.errors import REPORTED_ERRORS
from training.recipes.names import AUTO, LOOP_RECIPES
from training.recipes.plan import add_hardware
from training.reporting.progress import Lines, open_display
from training.reporting.tracking import add_track, tracking_in
from training.runs import FAILED, HALTED, HaltedError, Step, exclusive, read_status
from training.runtime.context import DEVICE_HELP

if TYPE_CHECKING:
    from training.evaluation.canary import Reading
    from training.model_store.bucket import ModelBucket
    from training.recipes.recipe import Recipe

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

TOO_LITTLE = 4
NICENESS = 10  # requests of users have priority over training
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def describe(commands: Commands, services: argparse.ArgumentParser) -> None:
    """Add the commands to the command line.

    Args:
        services: parser with the options for the loop's state and the feedback service.
    """
    trial = argparse.ArgumentParser(add_help=False)
    trial.add_argument("--recipe", choices=LOOP_RECIPES, required=True, help="auto: any model")
    trial.add_argument(
        "--generator",
        default="127.0.0.1:50055",
        metavar="HOST:PORT",
        help="the generator's rollout service (default: %(default)s)",
    )
    trial.add_argument("--canary-share", metavar="0..0.5", help="share of the users")
    trial.add_argument(
        "--canary-seconds", metavar="S", help="longest canary, then it is rolled back"
    )
    trial.add_argument(
        "--canary-users", metavar="N", help="rating users per version for a decision"
    )
    trial.add_argument(
        "--canary-steps",
        metavar="S,S",
        help="shares before the last one; each step needs requests without harm, or time",
    )
    _describe_loop(commands, [services, trial])
    tried = commands.add_parser("canary", parents=[services, trial])
    tried.add_argument("--version", required=True, metavar="NAME", help="that of its manifest")
    tried.add_argument("--directory", type=Path, required=True, metavar="DIR", help="the model")
    tried.set_defaults(command=canary)


def _describe_loop(commands: Commands, parents: Sequence[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("loop", parents=parents)
    command.add_argument(
        "--no-rollout", action="store_true", help="end after the gate, without users"
    )
    command.add_argument(
        "--workers",
        type=parse_workers,
        metavar="N[..M]",
        help="Ray workers; 0 trains in this process; a range continues with fewer workers after "
        "the loss of a machine (default: that of the recipe)",
    )
    command.add_argument(
        "--gpus-per-worker",
        type=int,
        metavar="N",
        help="GPUs for each worker, 0 for CPUs (default: 1 if this machine has one for each)",
    )
    command.add_argument("--device", metavar="NAME", help=DEVICE_HELP)
    add_hardware(command, "(default: that of this machine)")
    command.add_argument(
        "--gate-tasks",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=(),
        metavar="TASK,TASK",
        help="benchmarks and probes with a row in the gate, in addition to the recipe's",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.FIELD=VALUE",
        help="field of the recipe, such as ppo.updates=20 or gate.margin=0.05; repeatable",
    )
    command.add_argument(
        "--rollout-actors",
        type=int,
        metavar="N",
        help="Ray actors that sample for PPO; 0: the workers sample",
    )
    command.add_argument(
        "--texts", metavar="NAME|DIR", help="gate's texts and anchors: nano, small, or a folder"
    )
    _describe_stores(command)
    add_track(command)
    command.add_argument("--every", type=_seconds, metavar="TIME", help="period, such as 6h")
    command.add_argument(
        "--patience",
        type=_seconds,
        default=0.0,
        metavar="TIME",
        help="time to wait for another loop on this state, or an unavailable service, such as 2m",
    )
    command.add_argument(
        "--scheduled",
        action="store_true",
        help="for schedulers: too little feedback and a halt exit with 0",
    )
    command.set_defaults(command=loop)


def _describe_stores(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--checkpoints-in-bucket",
        action="store_true",
        default=None,
        help="write checkpoints to the bucket of TW_TRAINING_S3_*, not to the volume",
    )
    command.add_argument(
        "--model-store",
        metavar="s3://BUCKET/PREFIX",
        help="also write candidates there, for model servers that read from an object store",
    )
    command.add_argument(
        "--keep-versions",
        type=int,
        metavar="N",
        help="after a run remove old versions except the newest N and those in use",
    )
    add_review_option(command)


def loop(options: argparse.Namespace) -> int:
    """Run the loop once, or periodically with `--every`."""
    from training.recipes.custom.loop_recipe import adjusted_recipe

    recipe = adjusted_recipe(options)  # checks the options without torch
    print("loading the training code", flush=True)
    # Process 1 of a container ignores SIGTERM without a handler.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    while True:
        began = time.monotonic()
        with exclusive(options.state / "loop", f"recipe {options.recipe}", options.patience):
            if options.every is None and not options.scheduled:
                # Before the imports, which take minutes at low priority on a busy machine. A
                # scheduled run records its failure in the status.
                require_services(options)
            os.nice(max(0, NICENESS - os.nice(0)))
            status = _run_once(options, recipe)
        if options.every is None:
            return 0 if status in (TOO_LITTLE, HALTED) and options.scheduled else status
        time.sleep(max(0.0, options.every - (time.monotonic() - began)))


def _run_once(options: argparse.Namespace, recipe: Recipe) -> int:
    from training.evaluation.canary_run import WallClock
    from training.evaluation.halt_watch import HaltWatch
    from training.evaluation.judges import judge_from
    from training.loop import run_loop
    from training.loop_run import LoopEnvironment, NotEnoughFeedbackError
    from training.model_store.pruning import prune_versions
    from training.remote import FeedbackLog, RolloutClient

    with ExitStack() as stack:
        display = stack.enter_context(open_display())
        tls, signer = tls_files(options), identity(options)
        feedback = stack.enter_context(
            closing(FeedbackLog(options.feedback, tls, options.patience, signer))
        )
        rollout = watch = None
        if not options.no_rollout:
            # The second client is for the thread of the watch, which never waits for the service.
            rollout, watched = (
                stack.enter_context(
                    closing(RolloutClient(options.generator, tls, patience, signer))
                )
                for patience in (options.patience, 0.0)
            )
            watch = stack.enter_context(
                HaltWatch(watched, partial(_in_canary, options.state), display.say)
            )
        env = LoopEnvironment(
            state=options.state.absolute(),
            feedback=feedback,
            objects=objects(options),
            rollout=rollout,
            clock=WallClock(time.sleep),
            display=display,
            code_commit=code_commit(),
            halt_reason=lambda: watch.reason if watch else None,
            judge=judge_from(os.environ),
            store=_store(options),
            quarantined=partial(quarantined, options),
            tracking=tracking_in(options.state / "loop", options.track),
        )
        try:
            run_loop(options.recipe, recipe, env)
        except NotEnoughFeedbackError:
            return TOO_LITTLE
        except HaltedError as error:
            display.say(f"{error} (exit status {0 if options.scheduled else HALTED})")
            return HALTED
        except REPORTED_ERRORS as error:
            if options.every is None:
                raise
            display.say(f"{FAILED}: {error}")
            return 1  # the service may be available again in the next run
        if options.keep_versions is not None:
            keep, view = options.keep_versions, rollout.view() if rollout else None
            prune_versions(env.runs, env.registry, view, env.store, keep, display.say)
    return 0


def _store(options: argparse.Namespace) -> ModelBucket | None:
    from training.model_store.bucket import open_store

    place = options.model_store
    return open_store(place, "--model-store", os.environ) if place else None


def _in_canary(state: Path) -> bool:
    status = read_status(state / "loop")
    return status is not None and status.step == "canary"


def canary(options: argparse.Namespace) -> int:
    """Run only the canary of an existing model directory; its users promote it or roll it back.

    An interrupted canary continues. After a finished one, the version is measured again.
    """
    from training.evaluation.canary_run import DONE, WallClock, archive_finished, serve_canary
    from training.recipes.auto.values import CANARY
    from training.recipes.custom.loop_fields import canary_assignments
    from training.recipes.custom.loop_recipe import RECIPES
    from training.recipes.custom.recipe_file import set_parts
    from training.recipes.recipe import Plan
    from training.remote import FeedbackLog, RolloutClient

    require_state(options)
    plan = Plan(options.version, options.directory, options.directory)
    # A model needs no hardware for training in order to be tried.
    own = CANARY if options.recipe == AUTO else RECIPES[options.recipe](plan).canary
    config = set_parts({"canary": own}, canary_assignments(options))["canary"]
    with ExitStack() as stack:
        stack.enter_context(exclusive(options.state / "loop", f"canary {options.version}"))
        tls, signer = tls_files(options), identity(options)
        feedback = stack.enter_context(closing(FeedbackLog(options.feedback, tls, identity=signer)))
        rollout = stack.enter_context(
            closing(RolloutClient(options.generator, tls, identity=signer))
        )
        record = options.state / "loop" / "canaries" / options.version
        lines = Lines(sys.stdout)
        if earlier := archive_finished(record):
            lines.say(f"the earlier result is in {earlier}")

        def watch(reading: Reading, passed: float) -> None:
            lines.move(Step("canary", progress=passed, detail=reading.text()))

        clock = WallClock(time.sleep)
        end = serve_canary(
            options.version, options.directory, config, rollout, feedback, clock, record, watch
        )
        (record / DONE).touch()
    lines.say(f"{end.verdict}: {end.reason}")
    return 0


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 30m, 6h or 1d")
    return float(match[1]) * UNITS[match[2]]
