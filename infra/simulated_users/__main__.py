"""`python -m infra.simulated_users demo` shows the whole loop; `people` only chats and rates in a
system that runs.

Exit status: 0 everything that is claimed is so, 1 something is not or could not be done.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from infra.embedded.base_model import WrongBaseError
from infra.embedded.layout import ROOT, Layout, PortTakenError
from infra.embedded.running import RECIPES, UnknownRecipeError, check_recipe
from infra.simulated_users.bounds import CrowdError
from infra.simulated_users.client import CallFailedError, open_client
from infra.simulated_users.demo import Demonstration
from infra.simulated_users.settings import PLANS, Control, Settings
from infra.simulated_users.system import (
    NotCommittedError,
    System,
    find_system,
    forget,
    running_system,
)
from infra.simulated_users.terminal import say
from infra.simulated_users.training_loop import LoopFailedError
from infra.small_model.errors import ModelError
from infra.supervision import interruption
from infra.supervision.child import ChildFailedError
from infra.supervision.interruption import interruptible
from infra.supervision.supervisor import AlreadyRunningError, NotRunningError, read_ports

EXPECTED_ERRORS = (
    *(
        AlreadyRunningError,
        ChildFailedError,
        CrowdError,
        LoopFailedError,
        ModelError,
        NotCommittedError,
    ),
    *(
        NotRunningError,
        PortTakenError,
        WrongBaseError,
        UnknownRecipeError,
        CallFailedError,
        ValueError,
    ),
)


def main() -> None:
    options = _parser().parse_args()
    interruption.stop_like_ctrl_c()
    try:
        check_recipe(options.recipe)
        settings = _settings(options)
        holds = asyncio.run(
            demo(settings, *find(settings)) if options.command == "demo" else people(settings)
        )
    except EXPECTED_ERRORS as error:
        sys.exit(f"==> {error}")
    except ExceptionGroup as group:
        expected, other = group.split(EXPECTED_ERRORS)
        if other or expected is None:
            raise
        sys.exit("\n".join(f"==> {error}" for error in _leaves(expected)))
    except KeyboardInterrupt:
        interruption.leave()
    sys.exit(0 if holds else 1)


def find(settings: Settings) -> tuple[Layout, Path | None]:
    """A system of its own, or the one that runs in the state folder."""
    if settings.fresh:
        forget(settings.state, say)
    return find_system(
        settings.state, settings.plan.model, settings.http_port, settings.grpc_port, say
    )


async def demo(settings: Settings, layout: Layout, first: Path | None) -> bool:
    """The story. Stopped before its end it shows nothing that holds."""
    holds = ended = False
    with interruptible(say):
        async with (
            running_system(layout, first, say) as system,
            open_client(system.gateway) as client,
        ):
            demonstration = Demonstration(settings, system, client)
            holds = await (
                demonstration.run_worse() if settings.control.worse else demonstration.run()
            )
            ended = True
            if settings.keep:
                say(
                    f"still running: chat, and the loop's report, at {layout.page_url}  (Ctrl-C stops)"
                )
                await asyncio.Event().wait()
    if not ended:
        say(_go_on(settings))
    return holds


def _go_on(settings: Settings) -> str:
    """How a demonstration that was stopped is taken up: by itself it begins anew."""
    command = ".venv/bin/python -m infra.simulated_users demo --go-on"
    return f"to go on where this one was: {command} --recipe {settings.recipe} --state {settings.state}"


async def people(settings: Settings) -> bool:
    """Only the chatting and rating; the system must run."""
    system = System(Layout(settings.state, read_ports(settings.state)))
    async with open_client(system.gateway) as client:
        counts = await Demonstration(settings, system, client).fill()
    say(f"acknowledged: {counts.text()}; by version: {dict(counts.by_version)}")
    return counts.thumbs == settings.plan.thumbs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m infra.simulated_users", description="People who chat and rate."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("demo", help="people, then the loop, then the judgement")
    part = commands.add_parser("people", help="chat and rate in a system that runs")
    for command, state in ((whole, "demo-RECIPE"), (part, "")):
        command.add_argument(
            "--recipe", default="small", help=f"{' or '.join(RECIPES)} (default small)"
        )
        command.add_argument(
            "--state", type=Path, help=f"folder of the system (default .state/{state})"
        )
        command.add_argument("--thumbs", type=int, help="thumbs to give, exactly")
        command.add_argument("--seconds", type=float, help="longest time for these thumbs")
        command.add_argument("--people", type=int, help="how many people")
        command.add_argument("--concurrency", type=int, help="how many at once")
        command.add_argument(
            "--noise", type=float, help="share of thumbs that slip, 0 to 1 (default 0.1)"
        )
        command.add_argument("--seed", type=int, default=0)
    whole.add_argument(
        "--model", help="first version of a system that is started (default: the recipe's own)"
    )
    whole.add_argument(
        "--port",
        type=int,
        default=0,
        help="HTTP port of a system that is started; 0 picks a free one",
    )
    whole.add_argument(
        "--grpc-port", type=int, default=0, help="gRPC port of it; 0 picks a free one"
    )
    whole.add_argument(
        "--go-on", action="store_true", help="go on with what an earlier demonstration left"
    )
    whole.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C")
    whole.add_argument(
        "--shuffle-thumbs",
        action="store_true",
        help="control: thumbs say nothing; nothing is promoted",
    )
    whole.add_argument(
        "--worse",
        action="store_true",
        help="control: only a canary of a version made worse on purpose",
    )
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    plan = PLANS[options.recipe]
    given = {
        name: getattr(options, name) for name in ("thumbs", "seconds", "people", "concurrency")
    }
    plan = replace(plan, **{name: value for name, value in given.items() if value is not None})
    if options.noise is not None:
        plan = replace(plan, temper=replace(plan.temper, noise=options.noise))
    whole = options.command == "demo"
    if whole and options.model:
        plan = replace(plan, model=options.model)
    usual = ROOT / ".state" / f"demo-{options.recipe}" if whole else ROOT / ".state"
    return Settings(
        recipe=options.recipe,
        plan=plan,
        state=(options.state or usual).resolve(),
        http_port=options.port if whole else 0,
        grpc_port=options.grpc_port if whole else 0,
        seed=options.seed,
        keep=whole and options.keep,
        fresh=whole and options.state is None and not options.go_on,
        control=Control(options.shuffle_thumbs, options.worse) if whole else Control(),
    )


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


if __name__ == "__main__":
    main()
