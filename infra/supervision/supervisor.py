"""Starts the programs in order, keeps them running, stops those at the door first and then the rest
side by side.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.supervision.child import Child, Program
from training.errors import DetailedError

READY_SECONDS = 120.0
LOGS = "logs"
RUNNING = "running.json"


@dataclass(frozen=True)
class Running:
    """Who works in a state folder, and where."""

    pid: int
    ports: Mapping[str, int]


class AlreadyRunningError(DetailedError):
    """Another supervisor works in this state folder."""

    reason = "IN_USE"


class NotRunningError(DetailedError):
    """No supervisor works in this state folder."""

    reason = "STOPPED"


@asynccontextmanager
async def supervised(
    state: Path,
    ports: Mapping[str, int],
    programs: Sequence[Program],
    say: Callable[[str, str], None],
) -> AsyncIterator[dict[str, Child]]:
    """All programs ready; leaving the block stops them. Their logs and a note of who runs where are
    in the state folder.

    Who is cancelled a second time, while they stop, does not want to wait: what still runs is
    killed.

    Raises:
        AlreadyRunningError: a supervisor's process is alive for this state folder.
        ChildFailedError: one did not start; those that did are stopped.
    """
    (state / LOGS).mkdir(parents=True, exist_ok=True)
    _claim(state, ports)
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
        if _is_cancelled_twice():
            raise asyncio.CancelledError
        for first in (True, False):
            await asyncio.gather(
                *(child.stop() for child in children if child.program.stops_first is first)
            )
    except asyncio.CancelledError:
        await asyncio.gather(*(child.kill() for child in children))
        raise


def _is_cancelled_twice() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 1


def _claim(state: Path, ports: Mapping[str, int]) -> None:
    """Write who runs and where; `make loop` and the simulated users find the ports here."""
    running = find_running(state)
    if running and running.pid != os.getpid():
        raise AlreadyRunningError(
            f"Thumbwheel runs already (process {running.pid}, state in {state})", field=str(state)
        )
    (state / RUNNING).write_text(json.dumps({"pid": os.getpid(), "ports": dict(ports)}, indent=2))


def find_running(state: Path) -> Running | None:
    """The system that runs in a state folder."""
    file = state / RUNNING
    if not file.exists():
        return None
    noted = json.loads(file.read_text())
    running = Running(int(noted["pid"]), {name: int(port) for name, port in noted["ports"].items()})
    return running if _is_alive(running.pid) else None


def read_ports(state: Path) -> Mapping[str, int]:
    """Ports of the system that runs in a state folder.

    Raises:
        NotRunningError: none does.
    """
    running = find_running(state)
    if running is None:
        raise NotRunningError(
            f"Thumbwheel does not run in {state}: start it with `make up` in another terminal",
            field=str(state),
        )
    return running.ports


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
