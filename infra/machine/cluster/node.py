"""Processes 1 and 2 of the cluster's namespaces.

Process 1 reaps orphans. Process 2 starts the components and supervises them. Each step prints a
line on standard output. If the reader `up` exits before the last step, process 2 exits and thereby
ends the whole cluster. A partial cluster never remains.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp

from infra.machine.cluster import control_groups
from infra.machine.cluster.api import Api, connected
from infra.machine.cluster.components import Components
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.layout import CONTAINERD_SOCKET, NODE, Layout
from infra.machine.cluster.namespaces import set_up_namespaces
from infra.machine.cluster.policies.enforcement import is_enforced
from infra.run.supervision.child import Child, Program
from infra.run.supervision.terminal import SUPERVISOR

READY = "the cluster is ready"
READY_SECONDS = 90.0
POLL_SECONDS = 0.1
DNS = Path(__file__).parent / "coredns.yaml"
LOG = "node.log"
# Image commands for the containerd of kubelet.
IMAGES = ("ctr", "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", "images")


def run_first_process(second: Callable[[], None]) -> int:
    """Fork process 2 and wait for its exit; reap orphans, which are children of process 1."""
    supervisor = os.fork()
    if supervisor == 0:
        second()
        return 0
    while True:
        pid, status = os.wait()
        if pid == supervisor:
            return os.waitstatus_to_exitcode(status)


class Node:
    """Supervisor of the cluster's components."""

    def __init__(self, layout: Layout, components: Components, images: Sequence[Path]) -> None:
        self._layout = layout
        self._components = components
        self._images = images
        self._started = time.monotonic()
        self._children: list[Child] = []

    async def run(self) -> None:
        """Start the components and run until killed."""
        # The writing end of a pipe becomes readable after the reader has closed its end.
        asyncio.get_running_loop().add_reader(sys.stdout.fileno(), os._exit, 1)
        control_groups.join_components(self._layout.control_group)
        set_up_namespaces(self._layout)
        self._print_step("namespaces")
        async with connected(self._layout) as api:
            for program in self._components.first(api.is_ready):
                self._start(program)
            await self._ready("etcd", "containerd")
            for image in self._images:
                await run(*import_command(image))
                self._print_step(f"image {image.stem}")
            await self._ready("apiserver")
            for program in self._components.callers(is_enforced):
                self._start(program)
            await run("kubectl", "apply", "--server-side", "-f", str(DNS))
            self._print_step("DNS applied")
            await self._ready("controllers", "scheduler", "kubelet", "proxy", "policies")
            await self._wait_for("node", lambda: _is_node_ready(api))
            await self._wait_for("DNS", lambda: _is_dns_ready(api))
        asyncio.get_running_loop().remove_reader(sys.stdout.fileno())
        print(READY, flush=True)
        # The reader of standard output exits after the start.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        await asyncio.Event().wait()

    def _start(self, program: Program) -> None:
        child = Child(program, self._print_supervisor, self._layout.logs / f"{program.name}.log")
        child.start()
        self._children.append(child)

    async def _ready(self, *names: str) -> None:
        for child in self._children:
            if child.program.name in names:
                await child.wait_ready(READY_SECONDS)
                self._print_step(child.program.name)

    async def _wait_for(self, what: str, test: Callable[[], Awaitable[bool]]) -> None:
        end = time.monotonic() + READY_SECONDS
        while time.monotonic() < end:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):  # not available yet
                if await test():
                    self._print_step(what)
                    return
            await asyncio.sleep(POLL_SECONDS)
        raise ClusterError(
            f"{what} was not ready within {READY_SECONDS:.0f} s",
            field=what,
            reason="TIMED_OUT",
            limit=f"{READY_SECONDS:.0f} s",
        )

    def _print_step(self, what: str) -> None:
        print(f"{time.monotonic() - self._started:5.1f} s  {what}", flush=True)

    def _print_supervisor(self, source: str, text: str) -> None:
        """Print messages of the supervisor only; components have their own log files."""
        if source == SUPERVISOR:
            print(text, file=sys.stderr, flush=True)


def import_command(archive: Path) -> list[str]:
    """Return the command that imports an archive into containerd for kubelet."""
    return [*IMAGES, "import", str(archive)]


async def run(*command: str) -> None:
    """Run a command.

    Raises:
        ClusterError: the command failed; the message contains the end of its output.
    """
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise ClusterError(
            f"{' '.join(command)} failed with {process.returncode}: {output.decode()[-2_000:]}",
            field=command[0],
            reason="FAILED",
        )


async def _is_node_ready(api: Api) -> bool:
    node = await api.get(f"/api/v1/nodes/{NODE}")
    conditions = node.get("status", {}).get("conditions", ())
    return any(
        condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions
    )


async def _is_dns_ready(api: Api) -> bool:
    deployment = await api.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns")
    return bool(deployment.get("status", {}).get("readyReplicas"))
