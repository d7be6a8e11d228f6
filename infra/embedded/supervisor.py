"""Starts the programs in order, keeps them running, stops them in the reverse order."""

import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from infra.embedded.child import Child, Program
from infra.embedded.layout import Layout

READY_SECONDS = 120.0


class AlreadyRunningError(Exception):
    """Another supervisor works in this state folder."""


class NotRunningError(Exception):
    """No supervisor works in this state folder."""


@asynccontextmanager
async def supervised(
    layout: Layout, programs: list[Program], say: Callable[[str, str], None]
) -> AsyncIterator[dict[str, Child]]:
    """All programs ready; leaving the block stops them.

    Raises:
        AlreadyRunningError: a supervisor's process is alive for this state folder.
        ChildFailedError: one did not start; those that did are stopped.
    """
    _claim(layout)
    children = {program.name: Child(program, say, layout.logs / f"{program.name}.log") for program in programs}
    try:
        for child in children.values():
            child.start()
        for child in children.values():
            await child.wait_ready(READY_SECONDS)
        yield children
    finally:
        for child in reversed(children.values()):
            await child.stop()
        layout.running_file.unlink(missing_ok=True)


def _claim(layout: Layout) -> None:
    """Write who runs and where; `make loop` and the simulated users find the ports here."""
    if layout.running_file.exists():
        pid = int(json.loads(layout.running_file.read_text())["pid"])
        if pid != os.getpid() and _is_alive(pid):
            raise AlreadyRunningError(f"Thumbwheel runs already (process {pid}, state in {layout.state})")
    layout.running_file.write_text(json.dumps({"pid": os.getpid(), "ports": dict(layout.ports)}, indent=2))


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
    file = state / "running.json"
    if not file.exists() or not _is_alive(int(json.loads(file.read_text())["pid"])):
        raise NotRunningError(f"Thumbwheel does not run in {state}: start it with `make up` in another terminal")
    return {name: int(port) for name, port in json.loads(file.read_text())["ports"].items()}
