"""Lifecycle of the cluster, seen from the host.

A process starts the cluster. Killing process 1 of its namespaces ends the whole cluster. No state
outlives a cluster: `up` always starts a new one.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.install.environment import cache
from infra.machine.cluster import control_groups
from infra.machine.cluster.certificates import write_certificates
from infra.machine.cluster.configuration import write_configuration
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.installation import Tools
from infra.machine.cluster.layout import Layout
from infra.machine.cluster.node import LOG, READY
from infra.run.supervision.supervisor import RUNNING

NAMESPACES = ("--mount", "--net", "--pid")
EXIT_SECONDS = 20.0
POLL_SECONDS = 0.02
MAX_OUTPUT_CHARACTERS = 1_500
START_TICKS = 19  # index in /proc/PID/stat after the name


@dataclass(frozen=True)
class Process:
    """Process 1 of the namespaces by its pid on the host.

    `started` distinguishes the process from a later one with the same pid.
    """

    pid: int
    started: int


def up(layout: Layout, tools: Tools, say: Callable[[str], None]) -> None:
    """Start the cluster, print each step and return when ready.

    The cluster outlives this process.

    Raises:
        ClusterError: a cluster is already running, the folder contains other files, or the start
            failed. After a failed start no process remains and the logs are preserved.
    """
    check_requirements()
    if running := find(layout):
        raise ClusterError(
            f"the cluster is already running (process {running.pid}, state in {layout.state}); "
            "stop it with make cluster-down",
            field=str(layout.state),
            reason="IN_USE",
        )
    down(layout)
    layout.state.mkdir(parents=True, exist_ok=True)
    if any(layout.state.iterdir()):  # `down` would later remove these files
        raise ClusterError(
            f"{layout.state} contains other files; choose an empty folder for the cluster",
            field=str(layout.state),
            reason="EXISTS",
            limit="an empty folder",
        )
    layout.marker.write_text(
        "`python -m infra.machine.cluster down` and the next `up` remove all files of this "
        "folder.\n"
    )
    write_certificates(layout)
    write_configuration(layout, tools.network_plugins)
    for folder in (layout.logs, layout.data, layout.private):
        folder.mkdir(mode=0o700)
    control_groups.create(layout.control_group)
    try:
        _start(layout, tools, say)
    except BaseException:
        end(layout)
        raise


def check_requirements() -> None:
    """Check that a cluster can run on this machine.

    Raises:
        ClusterError: a requirement is missing.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ClusterError(
            "the cluster needs root on Linux, for namespaces, mounts and control groups",
            reason="UNSUPPORTED",
            limit="root on Linux",
        )
    for tool in ("unshare", "nsenter", "mount"):
        if not shutil.which(tool):
            raise ClusterError(
                f"{tool} is not installed: install util-linux", field=tool, reason="MISSING"
            )


def down(layout: Layout) -> None:
    """Stop the cluster and remove its files.

    Folders without a cluster's marker are not touched.

    Raises:
        ClusterError: a folder of the machine is mounted below the state folder.
    """
    if not layout.marker.exists():
        return
    end(layout)
    # Mounts below the state folder exist only inside the namespaces. Seen from the host, a removal
    # must never reach through a mount.
    mounted = [line.split()[4] for line in control_groups.MOUNTS.read_text().splitlines()]
    if below := [place for place in mounted if place.startswith(f"{layout.state}/")]:
        raise ClusterError(
            f"nothing removed: {below[0]} is mounted in the cluster's folder",
            field=below[0],
            reason="IN_USE",
        )
    shutil.rmtree(layout.state)


def end(layout: Layout) -> None:
    """Kill the cluster; logs and data remain."""
    if running := find(layout):
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
        wait_end = time.monotonic() + EXIT_SECONDS
        while find(layout):
            if time.monotonic() > wait_end:
                raise ClusterError(
                    f"process {running.pid} does not exit",
                    field=str(running.pid),
                    reason="TIMED_OUT",
                    limit=f"{EXIT_SECONDS:.0f} s",
                )
            time.sleep(POLL_SECONDS)
    control_groups.remove(layout.control_group)
    (layout.state / RUNNING).unlink(missing_ok=True)


def find(layout: Layout) -> Process | None:
    """Return process 1 of the cluster in this state folder if running."""
    note = layout.state / RUNNING
    if not (layout.marker.exists() and note.exists()):
        return None
    noted = json.loads(note.read_text())
    process = Process(int(noted["pid"]), int(noted["started"]))
    return process if _start_ticks(process.pid) == process.started else None


def require_running(layout: Layout) -> Process:
    """Return process 1 of the cluster.

    Raises:
        ClusterError: no cluster is running.
    """
    if process := find(layout):
        return process
    raise ClusterError(
        f"no cluster is running in {layout.state}; start one with make cluster",
        field=str(layout.state),
        reason="STOPPED",
    )


def in_namespaces(process: Process, command: Sequence[str]) -> list[str]:
    """Return the command to run in the cluster's namespaces and the current folder."""
    return [
        "nsenter",
        "--target",
        str(process.pid),
        *NAMESPACES,
        "--",
        "env",
        "-C",
        str(Path.cwd()),
        *command,
    ]


def user_environment(layout: Layout, tools: Tools) -> dict[str, str]:
    """Return the environment of a user's command in the cluster.

    Caches of kubectl and Helm are removed with the cluster.
    """
    remembered = {
        "KUBECACHEDIR": "kubectl",
        "HELM_CACHE_HOME": "helm",
        "HELM_CONFIG_HOME": "helm",
        "HELM_DATA_HOME": "helm",
    }
    own = {name: str(layout.private / folder) for name, folder in remembered.items()}
    return {**os.environ, **tools.environment, **own, "KUBECONFIG": str(layout.kubeconfig())}


def _start(layout: Layout, tools: Tools, say: Callable[[str], None]) -> None:
    command = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-m", "infra.machine.cluster", "node", "--state", str(layout.state)]
    # Variables of the user are left out: a proxy, for example, is not reachable from the cluster.
    environment = {
        **tools.environment,
        "HOME": str(layout.private),
        "KUBECONFIG": str(layout.kubeconfig()),
        "LANG": "C.UTF-8",
        "THUMBWHEEL_CACHE": str(cache()),
    }
    with (layout.logs / LOG).open("wb") as log:
        outside = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    # Record the child of `unshare`, which is killed to stop the cluster. `ports` is empty but
    # expected by readers of the file.
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    while outside.poll() is None:
        found = children.read_text().split()
        if found and (started := _start_ticks(int(found[0]))):
            partial = layout.state / f"{RUNNING}.partial"
            partial.write_text(json.dumps({"pid": int(found[0]), "started": started, "ports": {}}))
            partial.replace(layout.state / RUNNING)
            break
        time.sleep(POLL_SECONDS)
    assert outside.stdout
    with outside.stdout as lines:
        for line in lines:
            if line.strip() == READY:
                return
            say(line.rstrip())
    outside.wait()
    log_tail = (layout.logs / LOG).read_text()[-MAX_OUTPUT_CHARACTERS:].strip()
    raise ClusterError(
        f"the cluster did not start; logs in {layout.logs}: {log_tail}",
        field=str(layout.logs / LOG),
        reason="FAILED",
    )


def _start_ticks(pid: int) -> int | None:
    """Return the start time in ticks since boot, or None for a missing or zombie process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # Z: zombie, X: dead.
    return None if fields[0] in "ZX" else int(fields[START_TICKS])
