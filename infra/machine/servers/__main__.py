"""Install the real servers, or run all of them in this terminal.

Usage: `python -m infra.machine.servers install` and `python -m infra.machine.servers up`.
`install vllm` installs vLLM's CPU build alone, `install vllm-gpu` its CUDA build; no other command
needs them.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from infra.machine.servers import vllm
from infra.machine.servers.errors import ServerError
from infra.machine.servers.fleet import Fleet, assemble, choose_ports
from infra.machine.servers.installation import install
from infra.run.supervision.child import ChildFailedError, Program
from infra.run.supervision.interruption import as_command, interruptible
from infra.run.supervision.supervisor import AlreadyRunningError, supervised
from infra.run.supervision.terminal import SUPERVISOR, Terminal

ROOT = Path(__file__).resolve().parents[3]


def main() -> None:
    arguments = parse(sys.argv[1:])
    terminal = Terminal(with_children=False)
    with as_command(ServerError, ChildFailedError, AlreadyRunningError):
        if arguments.command == "install" and arguments.what in vllm.BUILDS:
            say = partial(terminal.say, SUPERVISOR)
            say(f"{arguments.what} is installed: {vllm.install(say, vllm.BUILDS[arguments.what])}")
        elif arguments.command == "install":
            found = install(partial(terminal.say, SUPERVISOR))
            terminal.say(SUPERVISOR, f"TW_TRAINING_BUBBLEWRAP={found.bubblewrap}")
        else:
            asyncio.run(up(*prepare(arguments, partial(terminal.say, SUPERVISOR)), terminal))


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.machine.servers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    parts = commands.add_parser("install", help="install missing parts into the cache")
    parts.add_argument("what", nargs="?", choices=("servers", *vllm.BUILDS), default="servers")
    start = commands.add_parser("up", help="run all servers in this terminal until Ctrl-C")
    start.add_argument(
        "--brokers",
        type=int,
        choices=(1, 3),
        default=1,
        help="Kafka brokers; three brokers store three copies",
    )
    start.add_argument(
        "--state",
        type=Path,
        default=ROOT / ".state" / "servers",
        help="state folder (default: %(default)s)",
    )
    return parser.parse_args(words)


def prepare(
    arguments: argparse.Namespace, say: Callable[[str], None]
) -> tuple[Path, Fleet, Mapping[str, int], Sequence[Program]]:
    """Run the blocking steps: installation and the folders of the servers."""
    binaries, state = install(say), arguments.state.resolve()
    ports = choose_ports(state, arguments.brokers)
    fleet = assemble(state, ports, targets={})
    return state, fleet, ports, fleet.prepare(binaries)


async def up(
    state: Path,
    fleet: Fleet,
    ports: Mapping[str, int],
    programs: Sequence[Program],
    terminal: Terminal,
) -> None:
    """Start the servers, print their addresses, run until SIGINT or SIGTERM."""
    say = partial(terminal.say, SUPERVISOR)
    say(f"starting {len(programs)} servers; their logs are in {state / 'logs'}")
    with interruptible(say):
        async with supervised(state, ports, programs, terminal.say):
            for name, address in fleet.addresses.items():
                say(f"{name:<11} {address}")
            say("all servers are ready; Ctrl-C stops them")
            await asyncio.Event().wait()


if __name__ == "__main__":
    main()
