"""Programs of one state folder: started together, stopped together, found by others."""

import sys
from pathlib import Path

import pytest

from infra.supervision.child import ChildFailedError, Program
from infra.supervision.ports import free_port
from infra.supervision.supervisor import NotRunningError, read_ports, supervised

LISTEN = "import socket, sys; door = socket.create_server(('127.0.0.1', int(sys.argv[1])))\nwhile True: door.accept()[0].close()"


def program(name: str, code: str) -> Program:
    port = free_port()
    return Program(name, (sys.executable, "-c", code, str(port)), {}, port)


def ignore(source: str, text: str) -> None:
    """Nobody looks at this terminal."""


def test_ports_of_a_system_that_does_not_run_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="make up"):
        read_ports(tmp_path)


async def test_who_runs_is_written_down_while_it_runs_and_logs_lie_in_one_folder(tmp_path: Path) -> None:
    programs = [program("one", LISTEN), program("two", LISTEN)]
    async with supervised(tmp_path, {"one": programs[0].port}, programs, ignore) as children:
        assert read_ports(tmp_path) == {"one": programs[0].port}
        assert all(child.pid for child in children.values())
    with pytest.raises(NotRunningError):
        read_ports(tmp_path)
    assert {file.name for file in (tmp_path / "logs").iterdir()} == {"one.log", "two.log"}


async def test_when_one_does_not_start_the_others_are_stopped(tmp_path: Path) -> None:
    well, dying = program("well", LISTEN), program("dying", "raise SystemExit('no database')")
    with pytest.raises(ChildFailedError, match="dying"):
        async with supervised(tmp_path, {}, [well, dying], ignore):
            pytest.fail("nothing was to start")
    assert not await well.is_ready()
