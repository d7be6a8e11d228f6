"""Control groups (cgroups v1 and v2) that limit memory and process number of a whole run.

The limits include forks and files in memory. Creating groups requires root, or delegation by
systemd or a container runtime. Otherwise only limits per process apply
(docs/decisions/verifiable-rewards.md).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from training.errors import DetailedError

MOUNT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
PREFIX = "thumbwheel-sandbox"
REMOVE_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.002


class ControlGroupError(DetailedError):
    """Error for a group that cannot be emptied because a process of the run survived."""

    reason = "IN_USE"


@dataclass(frozen=True)
class ControlGroups:
    """Parent folders of a run's groups, and the limit files with their values."""

    parents: tuple[Path, ...]
    limits: Mapping[str, int]  # by file name; files depend on the group's controllers

    @contextlib.contextmanager
    def of_one_run(self, name: str) -> Iterator[tuple[Path, ...]]:
        """Create the groups of a run and yield the files for joining them.

        All remaining processes are killed at the end.

        Raises:
            ControlGroupError: a process survived.
        """
        groups = [parent / f"{PREFIX}-{os.getpid()}-{name}" for parent in self.parents]
        try:
            for group in groups:
                group.mkdir()
                for file, value in self.limits.items():
                    if (group / file).exists():
                        (group / file).write_text(str(value))
            yield tuple(group / "cgroup.procs" for group in groups)
        finally:
            for group in groups:
                if group.exists():
                    _remove(group)


def find_control_groups(memory_bytes: int, processes: int) -> ControlGroups | None:
    """Return control groups that support both limits, or None."""
    limits = {
        "memory.limit_in_bytes": memory_bytes,
        "memory.max": memory_bytes,
        "memory.swap.max": 0,
        "pids.max": processes,
    }
    # One tree per controller (version 1), or a single tree (version 2): its top, the parent of our
    # own group, and our own group.
    candidates: list[tuple[Path, ...]] = [(MOUNT / "memory", MOUNT / "pids"), (MOUNT,)]
    lines = OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else []
    for own in (line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        candidates += [((MOUNT / own).parent,), (MOUNT / own,)]
    for parents in candidates:
        groups = ControlGroups(parents, limits)
        if _supports_limits(groups):
            return groups
    return None


def _supports_limits(groups: ControlGroups) -> bool:
    """Return True if a trial group accepts both limits; remove groups of ended processes first."""
    try:
        for parent in groups.parents:
            for group in parent.glob(f"{PREFIX}-*"):
                process = group.name.removeprefix(f"{PREFIX}-").split("-")[0]
                if process.isdigit() and not Path("/proc", process).exists():
                    _remove(group)
        with groups.of_one_run("trial") as entries:
            found = {file.name for entry in entries for file in entry.parent.iterdir()}
        return "pids.max" in found and bool({"memory.limit_in_bytes", "memory.max"} & found)
    except OSError:
        return False


def _remove(group: Path) -> None:
    """Kill the processes of a group, wait for their end, and remove the group."""
    end = time.monotonic() + REMOVE_TIMEOUT_SECONDS
    while True:
        for process in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        try:
            group.rmdir()
        except OSError as error:
            if time.monotonic() > end:
                raise ControlGroupError(
                    f"{group.name}: still in use after {REMOVE_TIMEOUT_SECONDS:.0f} s",
                    field=group.name,
                ) from error
            time.sleep(POLL_SECONDS)
        else:
            return
