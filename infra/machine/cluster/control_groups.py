"""Control group of the cluster in each hierarchy of the machine.

kubelet creates its pods inside, next to the group of the cluster's components. Only this module
removes the group.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from infra.machine.cluster.errors import ClusterError

MOUNTS = Path("/proc/self/mountinfo")
# Processes count for a moment after SIGKILL.
EMPTY_WITHIN_SECONDS = 10.0
POLL_SECONDS = 0.05
# CPU weights by cgroup version. Linux gives every session of the machine a weight of 1 (1,024 or
# 100), and the cluster has eight components. With a single weight for all pods the components
# stalled for seconds whenever pods started.
WEIGHTS = {"cpu.shares": 8 * 1024, "cpu.weight": 8 * 100}
PARTS = "parts"


def hierarchies(mounts: str) -> list[Path]:
    """Return the mount points of control groups (version 1 and 2) from a mountinfo text."""
    found = (line.partition(" - ") for line in mounts.splitlines())
    return [
        Path(before.split()[4])
        for before, _, after in found
        if after.split()[0] in ("cgroup", "cgroup2")
    ]


def create(name: str) -> None:
    """Create the group with the weight of all components of the cluster."""
    for hierarchy in hierarchies(MOUNTS.read_text()):
        (hierarchy / name).mkdir(exist_ok=True)
        for file, weight in WEIGHTS.items():
            if (hierarchy / name / file).exists():
                (hierarchy / name / file).write_text(str(weight))


def join_components(name: str) -> None:
    """Move this process and its future children into the group of the components.

    The group has a weight next to that of the pods, which kubelet sets by the number of processors
    (two processors: twice the weight).
    """
    for hierarchy in hierarchies(MOUNTS.read_text()):
        if any((hierarchy / name / file).exists() for file in WEIGHTS):
            (hierarchy / name / PARTS).mkdir(exist_ok=True)
            (hierarchy / name / PARTS / "cgroup.procs").write_text("0")


def remove(name: str) -> None:
    """Remove the group with all subgroups.

    Raises:
        ClusterError: a process is still in the group.
    """
    for hierarchy in hierarchies(MOUNTS.read_text()):
        group, end = hierarchy / name, time.monotonic() + EMPTY_WITHIN_SECONDS
        while group.exists():
            try:
                for folder in _innermost_first(group):
                    folder.rmdir()
            except OSError as error:
                if time.monotonic() > end:
                    raise ClusterError(
                        f"the control group {group} is in use", field=str(group), reason="IN_USE"
                    ) from error
                time.sleep(POLL_SECONDS)


def _innermost_first(group: Path) -> Iterator[Path]:
    """Yield subgroups before their parent.

    The kernel removes the files of a group with the group.
    """
    for entry in sorted(group.iterdir()):
        if entry.is_dir():
            yield from _innermost_first(entry)
    yield group
