"""Manage a real Kubernetes cluster of a single node on this machine (`make cluster`).

Usage: `python -m infra.machine.cluster COMMAND`, with COMMAND one of able, install, clients, up,
exec, load, status and down.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeAlias

from infra.install.environment import ROOT
from infra.machine.cluster import lifecycle
from infra.machine.cluster.api import connected
from infra.machine.cluster.components import Components
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.installation import (
    find_installed,
    install,
    install_clients,
    is_built,
    locate,
)
from infra.machine.cluster.layout import Layout
from infra.machine.cluster.node import Node, import_command, run_first_process
from infra.machine.cluster.policies.enforcement import PolicyEnforcer, apply_table
from infra.machine.cluster.programs import check_disk_space
from infra.machine.servers.errors import ServerError
from infra.run.supervision.child import ChildFailedError
from infra.run.supervision.interruption import as_command
from infra.run.supervision.terminal import SUPERVISOR, Terminal
from training.errors import details_of

Say: TypeAlias = Callable[[str], None]
STATE = ROOT / ".state" / "cluster"
HELP = {
    "able": "check that a cluster can run here; print the reason if not",
    "install": "download and build missing parts into the cache",
    "clients": "download Helm 4, Helm 3 and kubectl for tests of the chart",
    "up": "start a new cluster in the background",
    "down": "stop the cluster and remove its files",
    "status": "show nodes and pods",
    "exec": "-- COMMAND…: run a command in the cluster, with kubectl and helm on PATH",
    "load": "import OCI archives",
    "node": "(internal: first process of the cluster)",
    "policies": "(internal: enforcement of NetworkPolicies)",
}
NEXT = (
    "exec{where} -- kubectl get pods -A    (helm likewise)",
    "load{where} IMAGE.tar                 (an OCI archive)",
    "down{where}                           (stops it and removes its files)",
)


def main() -> None:
    words, command = split(sys.argv[1:])
    arguments = parse(words)
    layout = Layout(arguments.state.resolve())
    say = partial(Terminal().say, SUPERVISOR)
    with as_command(ClusterError, ServerError, ChildFailedError):
        sys.exit(
            COMMANDS[arguments.command](layout, [*getattr(arguments, "images", ()), *command], say)
        )


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments at the first `--`."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.machine.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in HELP.items():
        command = commands.add_parser(name, help=what)
        command.add_argument(
            "--state", type=Path, default=STATE, help="state folder (default: %(default)s)"
        )
        if name == "load":
            command.add_argument("images", nargs="+", metavar="IMAGE.tar")
    return parser.parse_args(words)


def install_all(_layout: Layout, _words: list[str], say: Say) -> int:
    lifecycle.check_requirements()  # fail before a build of a quarter of an hour
    install(say)
    return 0


def able(_layout: Layout, _words: list[str], _say: Say) -> int:
    try:
        lifecycle.check_requirements()
        if not is_built():
            check_disk_space()
    except ClusterError as error:
        raise ClusterError(
            f"{error}; CLUSTER=skip skips these tests", **details_of(error)
        ) from error
    return 0


def clients(_layout: Layout, _words: list[str], say: Say) -> int:
    install_clients(say)
    return 0


def up(layout: Layout, _words: list[str], say: Say) -> int:
    started, tools = time.monotonic(), find_installed()
    lifecycle.up(layout, tools, say)
    say(f"the cluster is running after {time.monotonic() - started:.1f} s. Next:")
    where = "" if layout.state == STATE else f" --state {layout.state}"
    for line in NEXT:
        say(f"  .venv/bin/python -m infra.machine.cluster {line.format(where=where)}")
    return 0


def down(layout: Layout, _words: list[str], say: Say) -> int:
    lifecycle.check_requirements()
    was = lifecycle.find(layout) is not None
    lifecycle.down(layout)
    say(
        "the cluster was stopped and removed"
        if was
        else f"no cluster was running in {layout.state}"
    )
    return 0


def status(layout: Layout, _words: list[str], say: Say) -> int:
    process = lifecycle.require_running(layout)
    say(f"the cluster is running: process {process.pid}, state and logs in {layout.state}")
    return run_in_cluster(layout, ["kubectl", "get", "nodes,pods", "--all-namespaces"])


def execute(layout: Layout, words: list[str], _say: Say) -> int:
    if not words:
        raise ClusterError(
            "exec -- COMMAND…: the command is missing", field="COMMAND", reason="MISSING"
        )
    command = lifecycle.in_namespaces(lifecycle.require_running(layout), words)
    os.execvpe(command[0], command, lifecycle.user_environment(layout, locate()))  # noqa: S606


def load(layout: Layout, images: list[str], _say: Say) -> int:
    for image in images:
        if failed := run_in_cluster(layout, import_command(Path(image).resolve())):
            return failed
    return 0


def node(layout: Layout, _words: list[str], _say: Say) -> int:
    if os.getpid() != 1:
        raise ClusterError(
            "`node` is internal to `up` and must run in separate namespaces",
            field="node",
            reason="UNSUPPORTED",
        )
    tools = locate()
    part = Node(layout, Components(layout, tools), tools.images)
    return run_first_process(lambda: asyncio.run(part.run()))


def policies(layout: Layout, _words: list[str], _say: Say) -> int:
    async def enforce() -> None:
        async with connected(layout) as api:
            await PolicyEnforcer(api, apply_table).run()

    asyncio.run(enforce())
    return 0


def run_in_cluster(layout: Layout, command: list[str]) -> int:
    """Run a command in the namespaces of the cluster and show its output."""
    environment = lifecycle.user_environment(layout, locate())
    return subprocess.run(
        lifecycle.in_namespaces(lifecycle.require_running(layout), command),
        env=environment,
        check=False,
    ).returncode


COMMANDS: Mapping[str, Callable[[Layout, list[str], Say], int]] = {
    "able": able,
    "install": install_all,
    "clients": clients,
    "up": up,
    "down": down,
    "status": status,
    "exec": execute,
    "load": load,
    "node": node,
    "policies": policies,
}

if __name__ == "__main__":
    main()
