"""Run Thumbwheel on real servers of this machine in one terminal.

Usage: `thumbwheel stack`. `make stack` runs this command.
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from infra.install.small_model.errors import ModelError
from infra.machine.servers.errors import ServerError
from infra.machine.servers.fleet import assemble, choose_ports
from infra.machine.servers.installation import install
from infra.run.embedded.base_model import WrongBaseError, first_model
from infra.run.embedded.environment import write_environment
from infra.run.embedded.layout import ROOT, Layout, PublicPortError, check_free, usual_public_ports
from infra.run.embedded.model_server import (
    ModelServer,
    add_quota_option,
    add_server_option,
    find_vllm,
    record_vllm,
)
from infra.run.embedded.preflight import STACK_STATE, check_not_running
from infra.run.embedded.readiness import wait_for_answers
from infra.run.stack.layout import StackLayout, metrics_targets, stack_ports
from infra.run.stack.preparation import prepare_stores
from infra.run.supervision.child import ChildFailedError, Program
from infra.run.supervision.interruption import as_command, interruptible
from infra.run.supervision.ports import HOST
from infra.run.supervision.secret_file import ForeignFileError, forbid_foreign_access
from infra.run.supervision.supervisor import AlreadyRunningError, supervised
from infra.run.supervision.terminal import SUPERVISOR, Terminal

EXPECTED_ERRORS = (
    PublicPortError,
    WrongBaseError,
    ModelError,
    AlreadyRunningError,
    ChildFailedError,
    ForeignFileError,
    ServerError,
)


def main() -> None:
    arguments = parse(sys.argv[1:])
    terminal = Terminal()
    with as_command(*EXPECTED_ERRORS):
        forbid_foreign_access()
        asyncio.run(up(*prepare(arguments, partial(terminal.say, SUPERVISOR)), terminal))


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="thumbwheel", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser(
        "up", prog="thumbwheel stack", help="run everything in this terminal until Ctrl-C"
    )
    start.add_argument(
        "--model", default="small", help="small, nano, a directory or a hub id in safetensors"
    )
    add_server_option(start, tuple(ModelServer))
    add_quota_option(start)
    start.add_argument(
        "--brokers",
        type=int,
        choices=(1, 3),
        default=1,
        help="Kafka brokers; three brokers store three copies",
    )
    start.add_argument(
        "--port",
        type=int,
        default=usual_public_ports()["http"],
        help="HTTP ports of the gateways: this and the next; 0: any",
    )
    start.add_argument(
        "--grpc-port",
        type=int,
        default=usual_public_ports()["gateway"],
        help="gRPC ports of the gateways, likewise",
    )
    start.add_argument(
        "--state", type=Path, default=STACK_STATE, help="state folder (default: %(default)s)"
    )
    return parser.parse_args(words)


def prepare(
    arguments: argparse.Namespace, say: Callable[[str], None]
) -> tuple[StackLayout, Path | None, Sequence[Program], Mapping[str, int]]:
    """Run the blocking steps: installation, base model and the folders of the servers."""
    state = arguments.state.resolve()
    check_not_running(state)
    check_free(arguments.port, arguments.grpc_port)
    vllm_python = find_vllm(arguments.server)
    binaries = install(say)
    ports = stack_ports(arguments.port, arguments.grpc_port)
    run = Layout(state, ports, vllm_python, arguments.without_quotas)
    model = first_model(run, arguments)
    run.prepare()
    record_vllm(state, vllm_python)
    folder = state / "servers"
    server_ports = choose_ports(folder, arguments.brokers, usual=bool(arguments.port))
    stack = StackLayout(run, assemble(folder, server_ports, metrics_targets(run.ports)))
    return stack, model, stack.fleet.prepare(binaries), server_ports


async def up(
    stack: StackLayout,
    model: Path | None,
    servers: Sequence[Program],
    server_ports: Mapping[str, int],
    terminal: Terminal,
) -> None:
    """Start the servers, prepare their stores, start two replicas of each service.

    Runs until SIGINT or SIGTERM.
    """
    run, say = stack.run, partial(terminal.say, SUPERVISOR)
    folder, quiet = run.state / "servers", Terminal(with_children=False)
    say(f"starting {len(servers)} servers; their logs are in {folder / 'logs'}")
    with interruptible(say):
        async with supervised(folder, server_ports, servers, quiet.say):
            await prepare_stores(stack, model, say)
            write_environment(run.state, stack.environment())
            services = stack.programs(model)
            say(f"starting {len(services)} services; their logs are in {run.logs}")
            async with supervised(run.state, run.ports, services, terminal.say):
                await wait_for_answers(run, model, terminal.say)
                say(f"chat at {run.page_url}")
                say(
                    f"second gateway at http://{HOST}:{run.ports['http_2']}; "
                    f"gRPC at {run.target('gateway')}"
                )
                say(
                    f"API key in {_relative_path(run.state / 'owner.key')}; "
                    f"in another terminal: make loop STATE={_relative_path(run.state)}"
                )
                say(f"Prometheus at {stack.fleet.prometheus.url}; Ctrl-C stops everything")
                await asyncio.Event().wait()


def _relative_path(path: Path) -> str:
    """Return a path relative to the clone, if possible."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


if __name__ == "__main__":
    main()
