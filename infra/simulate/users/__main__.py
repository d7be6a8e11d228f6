"""Demonstrate the whole loop, or simulate users of a running system.

Usage: `thumbwheel demo` and `python -m infra.simulate.users people`. Exit status: 0 if all claims
hold, 1 if a claim fails or a step is impossible.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from infra.install.small_model.errors import ModelError
from infra.machine.servers.errors import ServerError
from infra.run.embedded.base_model import WrongBaseError
from infra.run.embedded.layout import ROOT, Layout, PublicPortError
from infra.run.embedded.model_server import ModelServer, add_server_option, find_vllm
from infra.run.embedded.preflight import (
    RECIPES,
    UnknownRecipeError,
    choose_recipe,
    select_recipe,
)
from infra.run.supervision.child import ChildFailedError
from infra.run.supervision.interruption import as_command, interruptible
from infra.run.supervision.secret_file import ForeignFileError, forbid_foreign_access
from infra.run.supervision.supervisor import AlreadyRunningError, NotRunningError, read_ports
from infra.simulate.users.bounds import PopulationError
from infra.simulate.users.client import CallFailedError, open_client
from infra.simulate.users.demo import Demonstration
from infra.simulate.users.settings import LOOP, Control, Settings, select_plan
from infra.simulate.users.system import (
    NotCommittedError,
    System,
    find_system,
    remove_previous,
    running_system,
)
from infra.simulate.users.terminal import say
from infra.simulate.users.training_loop import LoopFailedError
from training.errors import ConfigError

EXPECTED_ERRORS = (
    *(
        AlreadyRunningError,
        ChildFailedError,
        ForeignFileError,
        PopulationError,
        LoopFailedError,
        ModelError,
        NotCommittedError,
    ),
    *(
        NotRunningError,
        PublicPortError,
        WrongBaseError,
        UnknownRecipeError,
        ServerError,
        CallFailedError,
        ValueError,
    ),
)


def main() -> None:
    options = _parser().parse_args()
    with as_command(*EXPECTED_ERRORS):
        forbid_foreign_access()
        settings = _settings(options)
        try:
            holds = asyncio.run(
                demo(settings, *find_or_prepare(settings))
                if options.command == "demo"
                else simulate(settings)
            )
        except ExceptionGroup as group:
            expected, other = group.split(EXPECTED_ERRORS)
            if other or expected is None:
                raise
            sys.exit("\n".join(f"==> {error}" for error in _leaves(expected)))
        sys.exit(0 if holds else 1)


def find_or_prepare(settings: Settings) -> tuple[Layout, Path | None]:
    """Return the system of the state folder, running or ready to be started.

    Raises:
        ConfigError: the recipe cannot train the model.
        ServerError: the model server is not installed.
    """
    vllm_python = find_vllm(settings.server)
    if settings.fresh:
        remove_previous(settings.state, say)
    layout, first = find_system(
        settings.state,
        settings.plan.model,
        settings.http_port,
        settings.grpc_port,
        say,
        vllm_python,
        settings.recipe,
    )
    select_recipe(settings.recipe, settings.state)  # of a system that is already running
    return layout, first


async def demo(settings: Settings, layout: Layout, first: Path | None) -> bool:
    """Run the demonstration; return True if all claims hold, False if interrupted."""
    holds = ended = False
    with interruptible(say):
        async with (
            running_system(layout, first, say) as system,
            open_client(system.gateway) as client,
        ):
            demonstration = Demonstration(settings, system, client)
            holds = await (
                demonstration.run_degraded() if settings.control.worse else demonstration.run()
            )
            ended = True
            if settings.keep:
                say(f"still running: chat and report at {layout.page_url}  (Ctrl-C stops)")
                await asyncio.Event().wait()
    if not ended:
        command = f".venv/bin/thumbwheel demo --go-on --server {settings.server}"
        say(f"to continue: {command} --recipe {settings.recipe} --state {settings.state}")
    return holds


async def simulate(settings: Settings) -> bool:
    """Simulate users of a running system only."""
    system = System(Layout(settings.state, read_ports(settings.state)))
    async with open_client(system.gateway) as client:
        counts = await Demonstration(settings, system, client).fill()
    say(f"acknowledged: {counts.text()}; by version: {dict(counts.by_version)}")
    return counts.thumbs == settings.plan.thumbs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.simulate.users", description="Simulated users that chat and rate."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser(
        "demo", prog="thumbwheel demo", help="simulate users, run the loop, evaluate the result"
    )
    part = commands.add_parser("people", help="simulate users of a running system")
    _describe_people(whole, "demo-RECIPE")
    _describe_people(part, "")
    whole.add_argument("--model", help="base model of a new system (default: that of the recipe)")
    whole.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="STEP.FIELD=VALUE",
        help="field of the loop's recipe, such as ppo.updates=20; repeatable",
    )
    whole.add_argument(
        "--port",
        type=int,
        default=0,
        help="HTTP port of a new system; 0 picks a free port",
    )
    whole.add_argument(
        "--grpc-port", type=int, default=0, help="gRPC port of a new system; 0 picks a free port"
    )
    add_server_option(whole)
    whole.add_argument("--go-on", action="store_true", help="continue an interrupted demonstration")
    whole.add_argument("--keep", action="store_true", help="keep the system running until Ctrl-C")
    whole.add_argument(
        "--shuffle-thumbs",
        action="store_true",
        help="control: thumbs without information; no version may be promoted",
    )
    whole.add_argument(
        "--false-claims",
        action="store_true",
        help="control: users with false beliefs reward agreement; no version may be promoted "
        "(nano)",
    )
    whole.add_argument(
        "--worse",
        action="store_true",
        help="control: only the canary of a degraded version",
    )
    return parser


def _describe_people(command: argparse.ArgumentParser, state: str) -> None:
    """Add the options of simulated users; `state` is the folder under .state."""
    command.add_argument(
        "--recipe",
        default="",
        help=f"one of {', '.join(RECIPES)} (default: that of --model, else small)",
    )
    command.add_argument(
        "--state", type=Path, help=f"folder of the system (default .state/{state})"
    )
    command.add_argument("--thumbs", type=int, help="exact number of thumbs")
    command.add_argument("--seconds", type=float, help="time limit for these thumbs")
    command.add_argument("--people", type=int, help="number of users")
    command.add_argument("--concurrency", type=int, help="number of concurrent users")
    command.add_argument(
        "--noise", type=float, help="share of inverted thumbs, 0 to 1 (default 0.1)"
    )
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--users",
        default="",
        help=f"for --recipe auto: users and questions of {' or '.join(LOOP)} (default small)",
    )


def _settings(options: argparse.Namespace) -> Settings:
    whole = options.command == "demo"
    recipe = choose_recipe(options.recipe, (options.model or "") if whole else "")
    plan = select_plan(recipe, options.users)
    given = {
        name: getattr(options, name) for name in ("thumbs", "seconds", "people", "concurrency")
    }
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    if options.noise is not None:
        plan = replace(plan, temper=replace(plan.temper, noise=options.noise))
    if whole and options.model:
        plan = replace(plan, model=options.model)
    if whole and not plan.model:
        raise ConfigError(
            f"--model: needed with --recipe {recipe}", field="--model", reason="MISSING"
        )
    usual = ROOT / ".state" / f"demo-{recipe}" if whole else ROOT / ".state"
    return Settings(
        recipe=recipe,
        plan=plan,
        state=(options.state or usual).resolve(),
        http_port=options.port if whole else 0,
        grpc_port=options.grpc_port if whole else 0,
        seed=options.seed,
        keep=whole and options.keep,
        fresh=whole and options.state is None and not options.go_on,
        control=Control(options.shuffle_thumbs, options.worse, options.false_claims)
        if whole
        else Control(),
        assignments=tuple(options.set) if whole else (),
        server=options.server if whole else ModelServer.PREDICTOR,
    )


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
