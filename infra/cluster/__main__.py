"""`python -m infra.cluster able | install | clients | up | exec | load | status | down`: a real
Kubernetes of one node (`make cluster`).
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

from infra.cluster import lifecycle
from infra.cluster.api import connected
from infra.cluster.components import Components
from infra.cluster.errors import ClusterError
from infra.cluster.installation import find_installed, install, install_clients, is_built, locate
from infra.cluster.layout import Layout
from infra.cluster.node import Node, import_command, run_first_process
from infra.cluster.policies.enforcement import Enforcement, apply_table
from infra.cluster.programs import refuse_unable
from infra.install.environment import ROOT
from infra.servers.errors import ServerError
from infra.supervision import interruption
from infra.supervision.child import ChildFailedError
from infra.supervision.terminal import SUPERVISOR, Terminal
from training.errors import details_of

Say: TypeAlias = Callable[[str], None]
STATE = ROOT / ".state" / "cluster"
HELP = {
    "able": "whether one can run here: silent, or why not",
    "install": "fetch and build what is missing into the cache",
    "clients": "fetch Helm, the one before it, and kubectl: for tests of the chart",
    "up": "start a new cluster; it runs on",
    "down": "end it and remove all of it",
    "status": "what runs in it",
    "exec": "-- COMMAND…: in its namespaces, with kubectl and helm on PATH",
    "load": "put OCI archives into it",
    "node": "(its first process)",
    "policies": "(the part of it that enforces NetworkPolicies)",
}
NEXT = (
    "exec{where} -- kubectl get pods -A    (helm likewise)",
    "load{where} IMAGE.tar                 (an OCI archive)",
    "down{where}                           (ends it; nothing stays)",
)


def main() -> None:
    words, command = split(sys.argv[1:])
    arguments = parse(words)
    layout = Layout(arguments.state.resolve())
    say = partial(Terminal().say, SUPERVISOR)
    interruption.stop_like_ctrl_c()
    try:
        sys.exit(
            COMMANDS[arguments.command](layout, [*getattr(arguments, "images", ()), *command], say)
        )
    except (ClusterError, ServerError, ChildFailedError) as error:
        sys.exit(f"==> {error}")
    except KeyboardInterrupt:
        interruption.leave()


def split(words: list[str]) -> tuple[list[str], list[str]]:
    """Ours, and what stands after the first --."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def parse(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m infra.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, what in HELP.items():
        command = commands.add_parser(name, help=what)
        command.add_argument(
            "--state", type=Path, default=STATE, help="its folder (default: %(default)s)"
        )
        if name == "load":
            command.add_argument("images", nargs="+", metavar="IMAGE.tar")
    return parser.parse_args(words)


def install_all(_layout: Layout, _words: list[str], say: Say) -> int:
    lifecycle.refuse_unable()  # no quarter of an hour of building for who cannot start it then
    install(say)
    return 0


def able(_layout: Layout, _words: list[str], _say: Say) -> int:
    try:
        lifecycle.refuse_unable()
        if not is_built():
            refuse_unable()
    except ClusterError as error:
        raise ClusterError(f"{error}. CLUSTER=skip does without", **details_of(error)) from error
    return 0


def clients(_layout: Layout, _words: list[str], say: Say) -> int:
    install_clients(say)
    return 0


def up(layout: Layout, _words: list[str], say: Say) -> int:
    started, tools = time.monotonic(), find_installed()
    lifecycle.up(layout, tools, say)
    say(f"the cluster runs, after {time.monotonic() - started:.1f} s. Next:")
    where = "" if layout.state == STATE else f" --state {layout.state}"
    for line in NEXT:
        say(f"  .venv/bin/python -m infra.cluster {line.format(where=where)}")
    return 0


def down(layout: Layout, _words: list[str], say: Say) -> int:
    lifecycle.refuse_unable()
    was = lifecycle.find(layout) is not None
    lifecycle.down(layout)
    say(
        "the cluster has ended; nothing of it stays" if was else f"no cluster ran in {layout.state}"
    )
    return 0


def status(layout: Layout, _words: list[str], say: Say) -> int:
    process = lifecycle.running(layout)
    say(f"the cluster runs: process {process.pid}, state and logs in {layout.state}")
    return inside(layout, ["kubectl", "get", "nodes,pods", "--all-namespaces"])


def execute(layout: Layout, words: list[str], _say: Say) -> int:
    if not words:
        raise ClusterError("exec -- COMMAND…: which one?", field="COMMAND", reason="MISSING")
    command = lifecycle.entered(lifecycle.running(layout), words)
    os.execvpe(command[0], command, lifecycle.user_environment(layout, locate()))  # noqa: S606 - the user's own words


def load(layout: Layout, images: list[str], _say: Say) -> int:
    for image in images:
        if failed := inside(layout, import_command(Path(image).resolve())):
            return failed
    return 0


def node(layout: Layout, _words: list[str], _say: Say) -> int:
    if os.getpid() != 1:
        raise ClusterError(
            "`node` is what `up` starts, in namespaces of its own: here it would change the machine",
            field="node",
            reason="UNSUPPORTED",
        )
    tools = locate()
    part = Node(layout, Components(layout, tools), tools.images)
    return run_first_process(lambda: asyncio.run(part.run()))


def policies(layout: Layout, _words: list[str], _say: Say) -> int:
    async def enforce() -> None:
        async with connected(layout) as api:
            await Enforcement(api, apply_table).run()

    asyncio.run(enforce())
    return 0


def inside(layout: Layout, command: list[str]) -> int:
    """Run it in the cluster's namespaces; its output is shown."""
    environment = lifecycle.user_environment(layout, locate())
    return subprocess.run(
        lifecycle.entered(lifecycle.running(layout), command), env=environment, check=False
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
