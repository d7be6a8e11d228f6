"""Run the whole system on this machine, or a run of training against it.

Usage: `thumbwheel up`, `thumbwheel loop` and `thumbwheel canary`. The Makefile calls the first two.
"""

import argparse
import asyncio
import sys
from functools import partial
from pathlib import Path

from infra.install.small_model.errors import ModelError
from infra.machine.servers.errors import ServerError
from infra.run.embedded.base_model import (
    NothingToTrainError,
    WrongBaseError,
    first_model,
    require_own_model,
)
from infra.run.embedded.environment import loop_environment
from infra.run.embedded.layout import (
    ROOT,
    Layout,
    PublicPortError,
    choose_ports,
    programs,
    usual_public_ports,
)
from infra.run.embedded.model_server import (
    ModelServer,
    add_quota_option,
    add_server_option,
    find_vllm,
    record_vllm,
)
from infra.run.embedded.preflight import (
    FeedbackUnreachableError,
    UnknownRecipeError,
    check_not_running,
    check_recipe,
    find_ports,
    has_too_little_feedback,
    select_recipe,
)
from infra.run.embedded.readiness import wait_for_answers
from infra.run.embedded.training_process import run_training_process
from infra.run.supervision.child import Child, ChildFailedError, Program
from infra.run.supervision.interruption import STATUS, as_command, interruptible
from infra.run.supervision.secret_file import ForeignFileError, forbid_foreign_access
from infra.run.supervision.supervisor import AlreadyRunningError, NotRunningError, supervised
from infra.run.supervision.terminal import SUPERVISOR, Terminal
from training.errors import ConfigError
from training.runs import LoopRunningError

EXPECTED_ERRORS = (
    *(
        PublicPortError,
        WrongBaseError,
        NothingToTrainError,
        ModelError,
        AlreadyRunningError,
        NotRunningError,
        ChildFailedError,
        ForeignFileError,
        ServerError,
        ConfigError,
    ),
    *(UnknownRecipeError, FeedbackUnreachableError, LoopRunningError),
)
# Exit status of `python -m training loop` for too little feedback; training is not installed yet.
TOO_LITTLE_FEEDBACK = 4


def main() -> None:
    arguments = parse(sys.argv[1:])
    with as_command(*EXPECTED_ERRORS):
        forbid_foreign_access()
        if arguments.recipe:
            check_recipe(arguments.recipe)
        if arguments.command == "up":
            layout, model = prepare(arguments)
            asyncio.run(up(arguments, layout, model))
        elif arguments.command in {"loop", "canary"}:
            sys.exit(asyncio.run(run_loop(arguments)))
        elif arguments.state:
            sys.exit(check(arguments.recipe, arguments.state.resolve()))


def check(recipe: str, state: Path) -> int:
    """Return 0 if a run can start on the system in the state folder.

    Otherwise return the exit status that the run would have.

    Args:
        recipe: "" for the recipe of the system's model.
    """
    feedback = Layout(state, find_ports(state)).target("feedback")
    chosen = select_recipe(recipe, state)
    return TOO_LITTLE_FEEDBACK if has_too_little_feedback(chosen, state, feedback) else 0


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="thumbwheel", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="run everything in this terminal until Ctrl-C")
    start.add_argument(
        "--model", default="small", help="small, nano, a directory or a hub id in safetensors"
    )
    start.add_argument(
        "--port",
        type=int,
        default=usual_public_ports()["http"],
        help="HTTP port; 0 picks a free one",
    )
    start.add_argument(
        "--grpc-port",
        type=int,
        default=usual_public_ports()["gateway"],
        help="gRPC port; 0 picks a free one",
    )
    add_server_option(start, tuple(ModelServer))
    add_quota_option(start)
    start.add_argument(
        "--loop-every", default="", help="interval of periodic training runs, for example 6h"
    )
    once = commands.add_parser(
        "loop", help="execute one run, from thumbs to a promoted or rejected version"
    )
    canary = commands.add_parser(
        "canary", help="try an existing version on users, who promote it or roll it back"
    )
    canary.add_argument("--version", required=True, help="name of its folder in the models")
    check = commands.add_parser(
        "check",
        prog="python -m infra.run.embedded check",
        help="check whether a run can start (exit status 4: too little feedback)",
    )
    check.add_argument("--state", type=Path, help="state folder of the running system")
    add_server_option(check)
    for command in (start, once, canary):
        command.add_argument(
            "--state",
            type=Path,
            default=ROOT / ".state",
            help="state folder (default: %(default)s)",
        )
    for command in (start, once, canary, check):
        command.add_argument(
            "--recipe", default="", help="training recipe (default: that of the system's model)"
        )
    for command in (once, canary):
        command.add_argument(
            "rest",
            nargs="*",
            help="further arguments of the command of python -m training, after --",
        )
    return parser.parse_args(words)


def prepare(arguments: argparse.Namespace) -> tuple[Layout, Path | None]:
    """Choose ports, install the base model and create the folders.

    The state folder is created after the model is available. The model is None for an external one.
    """
    state = arguments.state.resolve()
    check_not_running(state)
    vllm_python = find_vllm(arguments.server)
    ports = choose_ports(arguments.port, arguments.grpc_port)
    layout = Layout(state, ports, vllm_python, arguments.without_quotas)
    model = first_model(layout, arguments, arguments.recipe)
    if arguments.loop_every:
        require_own_model(state)
    layout.prepare()
    record_vllm(state, vllm_python)
    return layout, model


async def up(arguments: argparse.Namespace, layout: Layout, model: Path | None) -> None:
    """Start the services, print the URL, run until SIGINT or SIGTERM."""
    terminal = Terminal()
    say = partial(terminal.say, SUPERVISOR)
    wanted = programs(layout, model)
    say(f"starting {len(wanted)} services; their logs are in {layout.logs}")
    with interruptible(say):
        async with supervised(layout.state, layout.ports, wanted, terminal.say) as children:
            await wait_for_answers(layout, model, terminal.say)
            say(
                f"chat at {layout.page_url}  "
                f"(gRPC at {layout.target('gateway')}; Ctrl-C stops everything)"
            )
            if arguments.loop_every:
                children["loop"] = periodic_loop(layout, arguments, terminal)
            await asyncio.Event().wait()


def loop_command(layout: Layout, arguments: argparse.Namespace) -> list[str]:
    """Return the command for a run of the loop, or for a canary, against this system."""
    options: tuple[str, ...]
    if arguments.command == "canary":
        directory = layout.models / arguments.version
        command, options = "canary", ("--version", arguments.version, "--directory", str(directory))
    else:
        command, options = "loop", ("--review", layout.target("review"))
    return [
        *(
            sys.executable,
            "-m",
            "training",
            command,
            "--recipe",
            select_recipe(arguments.recipe, layout.state),
            "--state",
            str(layout.state),
        ),
        *("--feedback", layout.target("feedback"), "--generator", layout.target("generator")),
        *options,
    ]


def periodic_loop(layout: Layout, arguments: argparse.Namespace, terminal: Terminal) -> Child:
    """Start the periodic loop as a supervised program."""
    command = (*loop_command(layout, arguments), "--every", arguments.loop_every)
    program = Program("loop", command, loop_environment(layout.state), port=0, stops_first=True)
    child = Child(program, terminal.say, layout.logs / "loop.log")
    child.start()
    return child


async def run_loop(arguments: argparse.Namespace) -> int:
    """Execute a run in this terminal and return its exit status."""
    layout = Layout(arguments.state.resolve(), find_ports(arguments.state.resolve()))
    command = [*loop_command(layout, arguments), *arguments.rest]
    say = partial(Terminal().say, SUPERVISOR)
    say("starting the run")
    with interruptible(say, "training progress is preserved"):
        return await run_training_process(command, loop_environment(layout.state), layout.loop, say)
    return STATUS


if __name__ == "__main__":
    main()
