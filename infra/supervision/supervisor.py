"""Starts the programs in order, keeps them running, stops them in the reverse order."""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from infra.supervision.child import Child, Program

READY_SECONDS = 120.0
LOGS = "logs"
RUNNING = "running.json"


class AlreadyRunningError(Exception):
    """Another supervisor works in this state folder."""


class NotRunningError(Exception):
    """No supervisor works in this state folder."""


@asynccontextmanager
async def supervised(
    state: Path, ports: Mapping[str, int], programs: Sequence[Program], say: Callable[[str, str], None]
) -> AsyncIterator[dict[str, Child]]:
    """All programs ready; leaving the block stops them. Their logs and a note of who runs where are in the state folder.

    Raises:
        AlreadyRunningError: a supervisor's process is alive for this state folder.
        ChildFailedError: one did not start; those that did are stopped.
    """
    (state / LOGS).mkdir(parents=True, exist_ok=True)
    _claim(state, ports)
    children = {program.name: Child(program, say, state / LOGS / f"{program.name}.log") for program in programs}
    try:
        for child in children.values():
            child.start()
        for child in children.values():
            await child.wait_ready(READY_SECONDS)
        yield children
    finally:
        for child in reversed(children.values()):
            await child.stop()
        (state / RUNNING).unlink(missing_ok=True)


def _claim(state: Path, ports: Mapping[str, int]) -> None:
    """Write who runs and where; `make loop` and the simulated users find the ports here."""
    file = state / RUNNING
    if file.exists():
        pid = int(json.loads(file.read_text())["pid"])
        if pid != os.getpid() and _is_alive(pid):
            raise AlreadyRunningError(f"Thumbwheel runs already (process {pid}, state in {state})")
    file.write_text(json.dumps({"pid": os.getpid(), "ports": dict(ports)}, indent=2))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def read_ports(state: Path) -> dict[str, int]:
    """Ports of the system that runs in a state folder.

    Raises:
        NotRunningError: none does.
    """
    file = state / RUNNING
    if not file.exists() or not _is_alive(int(json.loads(file.read_text())["pid"])):
        raise NotRunningError(f"Thumbwheel does not run in {state}: start it with `make up` in another terminal")
    return {name: int(port) for name, port in json.loads(file.read_text())["ports"].items()}
