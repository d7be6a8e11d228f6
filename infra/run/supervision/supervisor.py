"""Supervisor that starts programs in order, restarts them, and stops them in two groups.

Programs with `stops_first` stop first, then all others concurrently.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.run.supervision.child import Child, Program
from training.errors import DetailedError

READY_SECONDS = 120.0
LOGS = "logs"
RUNNING = "running.json"


@dataclass(frozen=True)
class Running:
    """Process id and ports of the supervisor of a state folder."""

    pid: int
    ports: Mapping[str, int]


class AlreadyRunningError(DetailedError):
    """Another supervisor uses this state folder."""

    reason = "IN_USE"


class NotRunningError(DetailedError):
    """No supervisor uses this state folder."""

    reason = "STOPPED"


@asynccontextmanager
async def supervised(
    state: Path,
    ports: Mapping[str, int],
    programs: Sequence[Program],
    say: Callable[[str, str], None],
) -> AsyncIterator[dict[str, Child]]:
    """Run programs while the block executes. All of them are ready when the block starts.

    Logs and a file with the process id and the ports are in the state folder. A second cancellation
    during the stop kills the remaining programs.

    Raises:
        AlreadyRunningError: a supervisor is running for this state folder.
        ChildFailedError: a program did not start; the programs already started are stopped.
    """
    (state / LOGS).mkdir(parents=True, exist_ok=True)
    running = find_running(state)
    if running and running.pid != os.getpid():
        raise AlreadyRunningError(
            f"Thumbwheel is already running (process {running.pid}, state in {state})",
            field=str(state),
        )
    # `make loop` and the simulated users read the ports.
    (state / RUNNING).write_text(json.dumps({"pid": os.getpid(), "ports": dict(ports)}, indent=2))
    children = {
        program.name: Child(program, say, state / LOGS / f"{program.name}.log")
        for program in programs
    }
    try:
        for child in children.values():
            child.start()
        for child in children.values():
            await child.wait_ready(READY_SECONDS)
        yield children
    finally:
        try:
            await _stop(list(children.values()))
        finally:
            (state / RUNNING).unlink(missing_ok=True)


async def _stop(children: Sequence[Child]) -> None:
    try:
        # The second Ctrl-C may arrive before this point.
        task = asyncio.current_task()
        if task is not None and task.cancelling() > 1:
            raise asyncio.CancelledError
        for first in (True, False):
            await asyncio.gather(
                *(child.stop() for child in children if child.program.stops_first is first)
            )
    except asyncio.CancelledError:
        await asyncio.gather(*(child.kill() for child in children))
        raise


def find_running(state: Path) -> Running | None:
    """Return the supervisor that is running in a state folder, or None."""
    file = state / RUNNING
    if not file.exists():
        return None
    noted = json.loads(file.read_text())
    running = Running(int(noted["pid"]), {name: int(port) for name, port in noted["ports"].items()})
    try:
        os.kill(running.pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return running  # The process exists and belongs to another user.
    return running


def read_ports(state: Path) -> Mapping[str, int]:
    """Return the ports of the system that is running in a state folder.

    Raises:
        NotRunningError: no system is running.
    """
    running = find_running(state)
    if running is None:
        raise NotRunningError(
            f"Thumbwheel is not running in {state}; start it with `make up` in another terminal",
            field=str(state),
        )
    return running.ports
