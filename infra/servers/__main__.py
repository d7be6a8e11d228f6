"""`python -m infra.servers install` fetches the real servers; `up` runs all of them in this terminal until Ctrl-C."""

import argparse
import asyncio
import signal
import sys
from functools import partial
from pathlib import Path

from infra.servers.errors import ServerError
from infra.servers.fleet import assemble, choose_ports
from infra.servers.installation import install
from infra.supervision.child import ChildFailedError
from infra.supervision.supervisor import AlreadyRunningError, supervised
from infra.supervision.terminal import SUPERVISOR, Terminal

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    arguments = parse(sys.argv[1:])
    terminal = Terminal(with_children=False)
    try:
        if arguments.command == "install":
            install(partial(terminal.say, SUPERVISOR))
        else:
            asyncio.run(up(arguments.state.resolve(), arguments.brokers, terminal))
    except (ServerError, ChildFailedError, AlreadyRunningError) as error:
        sys.exit(f"==> {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.servers", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="fetch what is missing into the cache")
    start = commands.add_parser("up", help="run all servers in this terminal until Ctrl-C")
    start.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="of Kafka; three keep three copies")
    start.add_argument(
        "--state", type=Path, default=ROOT / ".state" / "servers", help="folder of everything that is kept"
    )
    return parser.parse_args(words)


async def up(state: Path, brokers: int, terminal: Terminal) -> None:
    """Install what is missing, start the servers, print their addresses, run until SIGINT or SIGTERM."""
    say = partial(terminal.say, SUPERVISOR)
    binaries = install(say)
    ports = choose_ports(state, brokers)
    fleet = assemble(state, ports, targets={})
    programs = fleet.prepare(binaries)
    say(f"starting {len(programs)} servers; their logs are in {state / 'logs'}")
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with supervised(state, ports, programs, terminal.say):
        for name, address in fleet.addresses.items():
            say(f"{name:<11} {address}")
        say("all servers are ready; Ctrl-C stops them")
        await stopped.wait()
        say("stopping")
    say("stopped")


if __name__ == "__main__":
    main()
