"""The kernel's own accounts (cgroups) that hold a whole run to its memory and number of processes,
forks and files in memory included.

Version 1 and 2, where this process may make groups: as root, or where systemd or a container
runtime delegates them. Where it may not, limits a process are what remains: see
docs/decisions/2026-11-26-sandbox.md.
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
EMPTY_SECONDS = 5.0
LOOK_SECONDS = 0.002


class ControlGroupError(DetailedError):
    """A group cannot be emptied: a process of the run is still there."""

    reason = "IN_USE"


@dataclass(frozen=True)
class ControlGroups:
    """Folders in which a run's groups are made, and the files that its limits are written to."""

    parents: tuple[Path, ...]
    limits: Mapping[str, int]  # by file name; a group has those that its controllers know

    @contextlib.contextmanager
    def of_one_run(self, name: str) -> Iterator[tuple[Path, ...]]:
        """The files into which the run's first process writes itself. Whatever is in the groups at
        the end is killed.

        Raises:
            ControlGroupError: something survived.
        """
        groups = [parent / f"{PREFIX}-{os.getpid()}-{name}" for parent in self.parents]
        try:
            for group in groups:
                group.mkdir()
                self._limit(group)
            yield tuple(group / "cgroup.procs" for group in groups)
        finally:
            for group in groups:
                if group.exists():
                    _remove(group)

    def _limit(self, group: Path) -> None:
        for file, value in self.limits.items():
            if (group / file).exists():
                (group / file).write_text(str(value))


def find_control_groups(memory_bytes: int, processes: int) -> ControlGroups | None:
    """Where groups that hold both can be made; None if nowhere."""
    limits = {
        "memory.limit_in_bytes": memory_bytes,
        "memory.max": memory_bytes,
        "memory.swap.max": 0,
        "pids.max": processes,
    }
    for parents in _candidates():
        groups = ControlGroups(parents, limits)
        if _hold(groups):
            return groups
    return None


def _candidates() -> Iterator[tuple[Path, ...]]:
    """Version 1 has a tree a controller, version 2 one tree for both: at its top, beside our own
    group, or in it.
    """
    yield MOUNT / "memory", MOUNT / "pids"
    yield (MOUNT,)
    lines = OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else []
    for own in (line.removeprefix("0::/") for line in lines if line.startswith("0::/")):
        yield ((MOUNT / own).parent,)
        yield (MOUNT / own,)


def _hold(groups: ControlGroups) -> bool:
    """Whether a group made there takes both limits. Groups of processes that are gone are removed
    on the way.
    """
    try:
        for parent in groups.parents:
            _sweep(parent)
        with groups.of_one_run("trial") as entries:
            found = {file.name for entry in entries for file in entry.parent.iterdir()}
        return "pids.max" in found and bool({"memory.limit_in_bytes", "memory.max"} & found)
    except OSError:
        return False


def _sweep(parent: Path) -> None:
    for group in parent.glob(f"{PREFIX}-*"):
        process = group.name.removeprefix(f"{PREFIX}-").split("-")[0]
        if process.isdigit() and not Path("/proc", process).exists():
            _remove(group)


def _remove(group: Path) -> None:
    """Kill what is in it, wait until it is gone, and remove the group."""
    end = time.monotonic() + EMPTY_SECONDS
    while True:
        for process in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        try:
            group.rmdir()
        except OSError as error:
            if time.monotonic() > end:
                raise ControlGroupError(
                    f"{group.name}: still in use after {EMPTY_SECONDS:.0f} s", field=group.name
                ) from error
            time.sleep(LOOK_SECONDS)
        else:
            return
