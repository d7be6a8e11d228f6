"""Programs of a state folder: started and stopped together, found by other commands."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from infra.run.supervision.child import ChildFailedError, Program
from infra.run.supervision.interruption import interruptible
from infra.run.supervision.ports import free_port
from infra.run.supervision.supervisor import NotRunningError, find_running, read_ports, supervised
from tests.support.errors import refused

LISTEN = """
import socket, sys
server = socket.create_server(('127.0.0.1', int(sys.argv[1])))
while True: server.accept()[0].close()
"""
NEVER_READY = "import time; time.sleep(600)"
# Program that stops once all given files exist, and then creates its own file.
STOP_AFTER = """
import pathlib, signal, socket, sys, time
door = socket.create_server(("127.0.0.1", int(sys.argv[1])))
mine, *awaited = map(pathlib.Path, sys.argv[2:])
def leave(*_):
    mine.touch()
    while not all(file.exists() for file in awaited):
        time.sleep(0.01)
    mine.with_suffix(".gone").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
while True:
    door.accept()[0].close()
"""


def program(name: str, code: str, *words: Path, stops_first: bool = False) -> Program:
    port = free_port()
    command = (sys.executable, "-c", code, str(port), *map(str, words))
    return Program(name, command, {}, port, stops_first=stops_first)


def ignore(source: str, text: str) -> None:
    """Discard the output of programs."""


def test_missing_system_is_reported_with_instructions(tmp_path: Path) -> None:
    with refused(NotRunningError, field=str(tmp_path), reason="STOPPED") as caught:
        read_ports(tmp_path)
    assert "make up" in caught.value.text


async def test_running_system_is_recorded_and_logs_are_in_a_folder(
    tmp_path: Path,
) -> None:
    programs = [program("one", LISTEN), program("two", LISTEN)]
    async with supervised(tmp_path, {"one": programs[0].port}, programs, ignore) as children:
        assert read_ports(tmp_path) == {"one": programs[0].port}
        assert all(child.pid for child in children.values())
    with refused(NotRunningError, reason="STOPPED"):
        read_ports(tmp_path)
    assert {file.name for file in (tmp_path / "logs").iterdir()} == {"one.log", "two.log"}


async def test_failed_start_stops_the_other_programs(tmp_path: Path) -> None:
    well, dying = program("well", LISTEN), program("dying", "raise SystemExit('no database')")
    with refused(ChildFailedError, field="dying", reason="STOPPED"):
        async with supervised(tmp_path, {}, [well, dying], ignore):
            pytest.fail("nothing was to start")
    assert not await well.is_ready()


async def test_gateway_stops_first_and_others_concurrently(tmp_path: Path) -> None:
    one, other, door = (tmp_path / name for name in ("one", "other", "door"))
    programs = [
        program("one", STOP_AFTER, one, door.with_suffix(".gone"), other),
        program("other", STOP_AFTER, other, door.with_suffix(".gone"), one),
        program("door", STOP_AFTER, door, stops_first=True),
    ]
    lines: list[str] = []
    async with supervised(tmp_path / "state", {}, programs, lambda _, text: lines.append(text)):
        pass
    assert all(file.with_suffix(".gone").exists() for file in (one, other, door))
    assert not [line for line in lines if "kill" in line], "one waited for the other in vain"


async def test_ctrl_c_during_start_removes_the_record(tmp_path: Path) -> None:
    messages: list[str] = []

    def see(source: str, text: str) -> None:
        """React to the first line: the program runs and never becomes ready."""
        os.kill(os.getpid(), signal.SIGINT)

    slow = program("slow", "print('here', flush=True); " + NEVER_READY)
    with interruptible(messages.append):
        async with supervised(tmp_path, {}, [slow], see):
            pytest.fail("it was never ready")
    assert (messages[0].split(";")[0], messages[-1]) == ("stopping", "stopped")
    assert find_running(tmp_path) is None
    task = asyncio.current_task()
    assert task
    assert not task.cancelling(), "who comes after it is not stopped too"


async def test_second_ctrl_c_kills_programs_of_nested_systems(
    tmp_path: Path,
) -> None:
    messages: list[str] = []
    never = tmp_path / "never"
    inner, outer = tmp_path / "inner", tmp_path / "outer"

    async def press_again() -> None:
        while not inner.exists():
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    with interruptible(messages.append):
        async with (
            supervised(
                tmp_path / "servers", {}, [program("outer", STOP_AFTER, outer, never)], ignore
            ),
            supervised(
                tmp_path / "state", {}, [program("inner", STOP_AFTER, inner, never)], ignore
            ),
        ):
            pressing = asyncio.create_task(press_again())
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.Event().wait()
    await pressing
    assert [line.split(";")[0].split(":")[0] for line in messages] == [
        "stopping",
        "stopping now",
        "stopped",
    ]
    assert not outer.exists(), "it was killed, not asked"
    assert find_running(tmp_path / "servers") is None
