"""The cluster's control group: one folder in each hierarchy of the machine, and nobody else removes
it. In it kubelet puts its pods, and beside them are the cluster's own parts.
"""

import time
from collections.abc import Iterator
from pathlib import Path

from infra.cluster.errors import ClusterError

MOUNTS = Path("/proc/self/mountinfo")
# Processes that were killed a moment ago still count.
EMPTY_WITHIN_SECONDS = 10.0
AGAIN_SECONDS = 0.05
# A share of the processors, by the versions' names for it. Linux counts every session of the
# machine as 1 (1,024 or 100), and the cluster's parts are eight: with one weight for all pods they
# stood still for seconds whenever pods were started.
WEIGHTS = {"cpu.shares": 8 * 1024, "cpu.weight": 8 * 100}
PARTS = "parts"


def hierarchies(mounts: str) -> list[Path]:
    """Where control groups are mounted, version 1 and 2, from the text of mountinfo."""
    found = (line.partition(" - ") for line in mounts.splitlines())
    return [
        Path(before.split()[4])
        for before, _, after in found
        if after.split()[0] in ("cgroup", "cgroup2")
    ]


def make(name: str) -> None:
    """As heavy as all of the cluster's parts would be on their own."""
    for hierarchy in hierarchies(MOUNTS.read_text()):
        (hierarchy / name).mkdir(exist_ok=True)
        for file, weight in WEIGHTS.items():
            if (hierarchy / name / file).exists():
                (hierarchy / name / file).write_text(str(weight))


def join_parts(name: str) -> None:
    """This process, and whom it starts, share the processors as the parts of a node do: one weight
    beside that of the pods, which kubelet sets by the processors that there are (two of them: twice
    as heavy).
    """
    for hierarchy in hierarchies(MOUNTS.read_text()):
        if any((hierarchy / name / file).exists() for file in WEIGHTS):
            (hierarchy / name / PARTS).mkdir(exist_ok=True)
            (hierarchy / name / PARTS / "cgroup.procs").write_text("0")


def remove(name: str) -> None:
    """With all in it. Raises: ClusterError: a process lives in there."""
    for hierarchy in hierarchies(MOUNTS.read_text()):
        end = time.monotonic() + EMPTY_WITHIN_SECONDS
        while not _removed(hierarchy / name):
            if time.monotonic() > end:
                raise ClusterError(
                    f"the control group {hierarchy / name} is in use",
                    field=str(hierarchy / name),
                    reason="IN_USE",
                )
            time.sleep(AGAIN_SECONDS)


def _removed(group: Path) -> bool:
    """Whether nothing is left of it now."""
    if not group.exists():
        return True
    try:
        for folder in _innermost_first(group):
            folder.rmdir()
    except OSError:
        return False
    return True


def _innermost_first(group: Path) -> Iterator[Path]:
    """The files in it go with it."""
    for entry in sorted(group.iterdir()):
        if entry.is_dir():
            yield from _innermost_first(entry)
    yield group
