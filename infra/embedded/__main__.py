"""`python -m infra.embedded up` runs the whole system; `loop` runs one turn of training against it. Used by the Makefile."""

import argparse
import asyncio
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

from infra.embedded.base_model import WrongBaseError, install_base
from infra.embedded.layout import PUBLIC_PORTS, ROOT, Layout, PortTakenError, choose_ports, programs
from infra.embedded.readiness import wait_for_model
from infra.embedded.surroundings import loop_environment
from infra.small_model.errors import ModelError
from infra.supervision.child import Child, ChildFailedError, Program
from infra.supervision.supervisor import AlreadyRunningError, NotRunningError, read_ports, supervised
from infra.supervision.terminal import SUPERVISOR, Terminal

EXPECTED_ERRORS = (PortTakenError, WrongBaseError, ModelError, AlreadyRunningError, NotRunningError, ChildFailedError)


def main() -> None:
    arguments = parse(sys.argv[1:])
    try:
        if arguments.command == "up":
            asyncio.run(up(arguments))
        else:
            sys.exit(run_loop(arguments))
    except EXPECTED_ERRORS as error:
        sys.exit(f"==> {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.embedded", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="run everything in this terminal until Ctrl-C")
    start.add_argument("--model", default="small", help="small, nano, a directory or a hub id in safetensors")
    start.add_argument("--port", type=int, default=PUBLIC_PORTS["http"], help="HTTP port; 0 picks a free one")
    start.add_argument("--grpc-port", type=int, default=PUBLIC_PORTS["gateway"], help="gRPC port; 0 picks a free one")
    start.add_argument("--loop-every", default="", help="run the loop again and again, for example every 6h")
    once = commands.add_parser("loop", help="one turn: from thumbs to a promoted or refused version")
    for command in (start, once):
        command.add_argument("--state", type=Path, default=ROOT / ".state", help="folder of everything that is kept")
        command.add_argument("--recipe", default="small", help="training recipe")
    once.add_argument("rest", nargs="*", help="further arguments for python -m training loop, after --")
    return parser.parse_args(words)


async def up(arguments: argparse.Namespace) -> None:
    """Install the model, start the services, print the URL, run until SIGINT or SIGTERM."""
    terminal = Terminal()
    layout = Layout(arguments.state.resolve(), choose_ports(arguments.port, arguments.grpc_port))
    layout.prepare()
    model = install_base(layout, arguments.model)
    wanted = programs(layout, model)
    terminal.say(SUPERVISOR, f"starting {len(wanted)} services; their logs are in {layout.logs}")
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with supervised(layout.state, layout.ports, wanted, terminal.say) as children:
        await wait_for_model(f"http://{layout.target('predictor')}", terminal.say)
        terminal.say(
            SUPERVISOR, f"chat at {page_url(layout)}  (gRPC at {layout.target('gateway')}; Ctrl-C stops everything)"
        )
        if arguments.loop_every:
            children["loop"] = periodic_loop(layout, arguments, terminal)
        await stopped.wait()
        terminal.say(SUPERVISOR, "stopping; running answers are finished first")
    terminal.say(SUPERVISOR, "stopped")


def page_url(layout: Layout) -> str:
    """The page with the owner's key behind the '#': browsers do not send that part to any server."""
    key = layout.state / "owner.key"
    with contextlib.suppress(FileNotFoundError):
        return f"{layout.url}/#key={key.read_text().strip()}"
    return layout.url


def loop_command(layout: Layout, arguments: argparse.Namespace) -> list[str]:
    """One turn of the loop against this run's services."""
    return [
        *(sys.executable, "-m", "training", "loop", "--recipe", arguments.recipe, "--state", str(layout.state)),
        *("--feedback", layout.target("feedback"), "--generator", layout.target("generator")),
    ]


def periodic_loop(layout: Layout, arguments: argparse.Namespace, terminal: Terminal) -> Child:
    """The loop as one more supervised program."""
    command = (*loop_command(layout, arguments), "--every", arguments.loop_every)
    child = Child(
        Program("loop", command, loop_environment(layout.state), port=0), terminal.say, layout.logs / "loop.log"
    )
    child.start()
    return child


def run_loop(arguments: argparse.Namespace) -> int:
    """Run one turn in this terminal; its exit status is the loop's."""
    layout = Layout(arguments.state.resolve(), read_ports(arguments.state.resolve()))
    command = [*loop_command(layout, arguments), *arguments.rest]
    return subprocess.run(command, cwd=ROOT, env=loop_environment(layout.state), check=False).returncode


if __name__ == "__main__":
    main()
