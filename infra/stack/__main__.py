"""`python -m infra.stack up` runs Thumbwheel on real servers of this machine in one terminal; used by `make stack`."""

import argparse
import asyncio
import signal
import sys
from functools import partial
from pathlib import Path

from infra.embedded.__main__ import page_url
from infra.embedded.base_model import WrongBaseError, install_base
from infra.embedded.layout import PUBLIC_PORTS, ROOT, Layout, PortTakenError, check_free
from infra.embedded.readiness import wait_for_model
from infra.embedded.surroundings import write_surroundings
from infra.servers.errors import ServerError
from infra.servers.fleet import assemble, choose_ports
from infra.servers.installation import Binaries, install
from infra.small_model.errors import ModelError
from infra.stack.layout import StackLayout, metrics_targets, stack_ports
from infra.stack.preparation import prepare_stores
from infra.supervision.child import ChildFailedError
from infra.supervision.ports import HOST
from infra.supervision.supervisor import AlreadyRunningError, supervised
from infra.supervision.terminal import SUPERVISOR, Terminal

EXPECTED_ERRORS = (PortTakenError, WrongBaseError, ModelError, AlreadyRunningError, ChildFailedError, ServerError)


def main() -> None:
    arguments = parse(sys.argv[1:])
    terminal = Terminal()
    try:
        binaries = install(partial(terminal.say, SUPERVISOR))
        asyncio.run(up(arguments, binaries, terminal))
    except EXPECTED_ERRORS as error:
        sys.exit(f"==> {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("up", help="run everything in this terminal until Ctrl-C")
    start.add_argument("--model", default="small", help="small, nano, a directory or a hub id in safetensors")
    start.add_argument("--brokers", type=int, choices=(1, 3), default=1, help="of Kafka; three keep three copies")
    start.add_argument("--port", type=int, default=PUBLIC_PORTS["http"], help="HTTP ports: this and the next; 0: any")
    start.add_argument("--grpc-port", type=int, default=PUBLIC_PORTS["gateway"], help="gRPC ports, likewise")
    start.add_argument(
        "--state", type=Path, default=ROOT / ".state" / "stack", help="folder of everything that is kept"
    )
    return parser.parse_args(words)


async def up(arguments: argparse.Namespace, binaries: Binaries, terminal: Terminal) -> None:
    """Servers first, then their stores are made ready, then two replicas of everything; until SIGINT or SIGTERM."""
    check_free(arguments.port, arguments.grpc_port)
    run = Layout(arguments.state.resolve(), stack_ports(arguments.port, arguments.grpc_port))
    run.prepare()
    model = install_base(run, arguments.model)
    folder = run.state / "servers"
    server_ports = choose_ports(folder, arguments.brokers, usual=bool(arguments.port))
    stack = StackLayout(run, assemble(folder, server_ports, metrics_targets(run.ports)))
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)

    servers = stack.fleet.prepare(binaries)
    terminal.say(SUPERVISOR, f"starting {len(servers)} servers; their logs are in {folder / 'logs'}")
    async with supervised(folder, server_ports, servers, Terminal(with_children=False).say):
        await prepare_stores(stack, model, partial(terminal.say, SUPERVISOR))
        write_surroundings(run.state, stack.surroundings())
        services = stack.programs(model)
        terminal.say(SUPERVISOR, f"starting {len(services)} services; their logs are in {run.logs}")
        async with supervised(run.state, run.ports, services, terminal.say):
            await wait_for_model(f"http://{run.target('predictor')}", terminal.say)
            _say_where(stack, terminal)
            await stopped.wait()
            terminal.say(SUPERVISOR, "stopping; running answers are finished first")
    terminal.say(SUPERVISOR, "stopped")


def _say_where(stack: StackLayout, terminal: Terminal) -> None:
    run = stack.run
    terminal.say(SUPERVISOR, f"chat at {page_url(run)}")
    terminal.say(
        SUPERVISOR, f"the second gateway at http://{HOST}:{run.ports['http_2']}; gRPC at {run.target('gateway')}"
    )
    terminal.say(SUPERVISOR, f"Prometheus at {stack.fleet.prometheus.url}; Ctrl-C stops everything")


if __name__ == "__main__":
    main()
