"""A supervised process is restarted, forwards its output and has time to drain."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from infra.run.supervision.child import LAST_LINES, Child, ChildFailedError, Program
from infra.run.supervision.ports import free_port
from tests.support.errors import refused

LISTEN = """
import signal, socket, sys, time
def leave(*_):
    print("drained", flush=True)
    sys.exit(0)
print("ready", flush=True)
signal.signal(signal.SIGTERM, leave)
door = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    door.accept()[0].close()
"""
DIE = "import sys; print('no database', flush=True); sys.exit(3)"


class Lines:
    """Recorder of terminal lines."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def say(self, source: str, text: str) -> None:
        self.all.append((source, text))

    async def wait_for(self, *words: str) -> None:
        """Wait for a line with all words."""
        async with asyncio.timeout(20):
            while not any(all(word in line for word in words) for _, line in self.all):
                await asyncio.sleep(0.02)


@asynccontextmanager
async def child_of(
    code: str,
    folder: Path,
    ready: Callable[[], Awaitable[bool]] | None = None,
    leftovers: tuple[Path, ...] = (),
) -> AsyncIterator[tuple[Child, Lines]]:
    port, lines = free_port(), Lines()
    command = (sys.executable, "-u", "-c", code, str(port))
    program = Program(
        "parrot", command, {}, port, stop_seconds=10, ready=ready, leftovers=leftovers
    )
    child = Child(program, lines.say, folder / "parrot.log")
    child.start()
    try:
        yield child, lines
    finally:
        await child.stop()


async def test_output_is_forwarded_and_sigterm_permits_drain(tmp_path: Path) -> None:
    async with child_of(LISTEN, tmp_path) as (child, lines):
        await child.wait_ready(20)
    assert ("parrot", "ready") in lines.all
    assert ("parrot", "drained") in lines.all
    assert (tmp_path / "parrot.log").read_text() == "ready\ndrained\n"


async def test_killed_process_is_restarted_with_a_message(tmp_path: Path) -> None:
    async with child_of(LISTEN, tmp_path) as (child, lines):
        await child.wait_ready(20)
        first = child.pid
        assert first
        os.kill(first, signal.SIGKILL)
        await lines.wait_for("parrot", "SIGKILL")
        async with asyncio.timeout(20):
            while child.pid in (None, first):
                await asyncio.sleep(0.02)
    assert child.starts == 2


async def test_exit_during_start_fails_with_the_log_path(
    tmp_path: Path,
) -> None:
    async with child_of(DIE, tmp_path) as (child, _):
        with refused(ChildFailedError, field="parrot", reason="STOPPED") as caught:
            await child.wait_ready(20)
    assert str(tmp_path / "parrot.log") in caught.value.text
    assert "no database" in caught.value.text
    assert "no database" in (tmp_path / "parrot.log").read_text()


async def test_exit_during_start_shows_the_last_lines(tmp_path: Path) -> None:
    code = (
        f"for number in range({LAST_LINES + 5}): print('line', number)\nraise SystemExit('wrong')"
    )
    async with child_of(code, tmp_path) as (child, _):
        with refused(ChildFailedError, field="parrot", reason="STOPPED") as caught:
            await child.wait_ready(20)
    first, *shown = [line.strip() for line in caught.value.text.splitlines()]
    assert str(tmp_path / "parrot.log") in first
    assert shown == [f"line {number}" for number in range(6, LAST_LINES + 5)] + ["wrong"]


async def test_stopped_process_is_gone(tmp_path: Path) -> None:
    async with child_of(LISTEN, tmp_path) as (child, _):
        await child.wait_ready(20)
        pid = child.pid
        assert pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_program_without_port_is_ready_by_its_check() -> None:
    answers = iter((False, True))

    async def ready() -> bool:
        return next(answers)

    program = Program("hermit", (), {}, None, ready=ready)
    assert [await program.is_ready(), await program.is_ready()] == [False, True]


async def test_program_with_check_is_ready_by_its_check(tmp_path: Path) -> None:
    answers = iter([False, False, True])

    async def ready() -> bool:
        return next(answers)

    async with child_of(LISTEN, tmp_path, ready) as (child, _):
        await child.wait_ready(20)
    assert not list(answers)


async def test_leftover_files_are_removed_after_the_end(tmp_path: Path) -> None:
    leftovers = tmp_path / "parrot.sock"
    async with child_of(LISTEN, tmp_path, leftovers=(leftovers, tmp_path / "never-made")) as (
        child,
        _,
    ):
        await child.wait_ready(20)
        leftovers.touch()
    assert not leftovers.exists()
