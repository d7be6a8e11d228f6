"""The cluster seen from outside: one process starts it, and killing process 1 of its namespaces
ends all of it.

Nothing of a cluster outlives it: `up` begins from nothing each time, whatever became of the one
before.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.cluster import control_groups
from infra.cluster.certificates import write_certificates
from infra.cluster.configuration import write_configuration
from infra.cluster.errors import ClusterError
from infra.cluster.installation import Tools
from infra.cluster.layout import Layout
from infra.cluster.node import LOG, READY
from infra.install.environment import cache
from infra.supervision.supervisor import RUNNING

NAMESPACES = ("--mount", "--net", "--pid")
GONE_WITHIN_SECONDS = 20.0
AGAIN_SECONDS = 0.02
LAST_CHARACTERS = 1_500
START_TICKS = 19  # its place in /proc/PID/stat, counted after the name


@dataclass(frozen=True)
class Process:
    """Process 1 of the namespaces by its number outside; `started` tells it from a later one of the
    same number.
    """

    pid: int
    started: int


def up(layout: Layout, tools: Tools, say: Callable[[str], None]) -> None:
    """Start it, say each step, come back when it is ready. It runs on without this process.

    Raises:
        ClusterError: one runs already, or it did not start: then nothing runs, and logs are kept.
    """
    refuse_unable()
    if running := find(layout):
        raise ClusterError(
            f"the cluster runs already (process {running.pid}, state in {layout.state}); make cluster-down ends it",
            field=str(layout.state),
            reason="IN_USE",
        )
    down(layout)
    _claim(layout)
    write_certificates(layout)
    write_configuration(layout, tools.network_plugins)
    for folder in (layout.logs, layout.data, layout.private):
        folder.mkdir(mode=0o700)
    control_groups.make(layout.control_group)
    try:
        _start(layout, tools, say)
    except BaseException:
        end(layout)
        raise


def refuse_unable() -> None:
    """Raises: ClusterError: no cluster can run here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        raise ClusterError(
            "the cluster needs root on Linux, for namespaces, mounts and control groups of its own",
            reason="UNSUPPORTED",
            limit="root on Linux",
        )
    for tool in ("unshare", "nsenter", "mount"):
        if not shutil.which(tool):
            raise ClusterError(f"no {tool} here: install util-linux", field=tool, reason="MISSING")


def down(layout: Layout) -> None:
    """End it and remove all of it. Nothing happens where there is none, least of all to a folder of
    something else.
    """
    if layout.mark.exists():
        end(layout)
        _refuse_mounted(layout)
        shutil.rmtree(layout.state)


def end(layout: Layout) -> None:
    """Kill it; its logs and data stay."""
    if running := find(layout):
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGKILL)
        wait_end = time.monotonic() + GONE_WITHIN_SECONDS
        while find(layout):
            if time.monotonic() > wait_end:
                raise ClusterError(
                    f"process {running.pid} does not end",
                    field=str(running.pid),
                    reason="TIMED_OUT",
                    limit=f"{GONE_WITHIN_SECONDS:.0f} s",
                )
            time.sleep(AGAIN_SECONDS)
    control_groups.remove(layout.control_group)
    (layout.state / RUNNING).unlink(missing_ok=True)


def find(layout: Layout) -> Process | None:
    """The cluster of this state folder, if it runs."""
    note = layout.state / RUNNING
    if not (layout.mark.exists() and note.exists()):
        return None
    noted = json.loads(note.read_text())
    process = Process(int(noted["pid"]), int(noted["started"]))
    return process if _start_ticks(process.pid) == process.started else None


def running(layout: Layout) -> Process:
    """The same, where there must be one. Raises: ClusterError: none runs."""
    if process := find(layout):
        return process
    raise ClusterError(
        f"no cluster runs in {layout.state}: make cluster starts one",
        field=str(layout.state),
        reason="STOPPED",
    )


def entered(process: Process, command: Sequence[str]) -> list[str]:
    """The command in the cluster's namespaces, in the folder of this process."""
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
    """For a command of the user's in there. What kubectl and Helm remember of the cluster ends with
    it.
    """
    remembered = {
        "KUBECACHEDIR": "kubectl",
        "HELM_CACHE_HOME": "helm",
        "HELM_CONFIG_HOME": "helm",
        "HELM_DATA_HOME": "helm",
    }
    own = {name: str(layout.private / folder) for name, folder in remembered.items()}
    return {**os.environ, **tools.environment, **own, "KUBECONFIG": str(layout.kubeconfig())}


def _refuse_mounted(layout: Layout) -> None:
    """Folders of the machine are mounted below the state inside the namespaces. Seen from out here
    they must never be removed through.

    Raises: ClusterError: something is mounted there.
    """
    mounted = [line.split()[4] for line in control_groups.MOUNTS.read_text().splitlines()]
    if below := [place for place in mounted if place.startswith(f"{layout.state}/")]:
        raise ClusterError(
            f"nothing removed: {below[0]} is mounted in the cluster's folder",
            field=below[0],
            reason="IN_USE",
        )


def _claim(layout: Layout) -> None:
    """Raises: ClusterError: the folder holds something else, which `down` would remove."""
    layout.state.mkdir(parents=True, exist_ok=True)
    if any(layout.state.iterdir()):
        raise ClusterError(
            f"{layout.state} holds something else: name an empty folder for the cluster's state",
            field=str(layout.state),
            reason="EXISTS",
            limit="an empty folder",
        )
    layout.mark.write_text(
        "Everything in this folder is removed by `python -m infra.cluster down`, and by the next `up`.\n"
    )


def _start(layout: Layout, tools: Tools, say: Callable[[str], None]) -> None:
    command = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
    command += [sys.executable, "-m", "infra.cluster", "node", "--state", str(layout.state)]
    with (layout.logs / LOG).open("wb") as log:
        outside = subprocess.Popen(
            command,
            env=_own_environment(layout, tools),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    _note(layout, outside)
    assert outside.stdout
    with outside.stdout as lines:
        for line in lines:
            if line.strip() == READY:
                return
            say(line.rstrip())
    outside.wait()
    raise ClusterError(
        f"the cluster did not start; {layout.logs} says: {_last_words(layout)}",
        field=str(layout.logs / LOG),
        reason="FAILED",
    )


def _own_environment(layout: Layout, tools: Tools) -> Mapping[str, str]:
    """Nothing of the user's: a proxy, say, leads nowhere in there. But where the cache is."""
    own = {"HOME": str(layout.private), "KUBECONFIG": str(layout.kubeconfig()), "LANG": "C.UTF-8"}
    return {**tools.environment, **own, "THUMBWHEEL_CACHE": str(cache())}


def _note(layout: Layout, outside: subprocess.Popen[str]) -> None:
    """Who runs: the child of `unshare`, which stays to kill it. Ports are none, but whoever reads
    such notes asks for them.
    """
    children = Path(f"/proc/{outside.pid}/task/{outside.pid}/children")
    while outside.poll() is None:
        found = children.read_text().split()
        if found and (started := _start_ticks(int(found[0]))):
            partial = layout.state / f"{RUNNING}.partial"
            partial.write_text(json.dumps({"pid": int(found[0]), "started": started, "ports": {}}))
            partial.replace(layout.state / RUNNING)
            return
        time.sleep(AGAIN_SECONDS)


def _start_ticks(pid: int) -> int | None:
    """When it started, in ticks since boot; None: it has gone, or waits for its parent to notice."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[START_TICKS])


def _last_words(layout: Layout) -> str:
    return (layout.logs / LOG).read_text()[-LAST_CHARACTERS:].strip()
