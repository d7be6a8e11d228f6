"""Model server and generator in separate processes, to be frozen and killed, with counters."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from services.chassis.channel import open_channel
from tests.services.generator.service import Stubs, generator_settings, stubs_of

ROOT = Path(__file__).resolve().parents[2]


class ModelServer:
    """The fake model server in a process. `settings` are fields of FakePredictor."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._process: Process | None = None
        self.port = 0

    async def start(self) -> None:
        """Start a new process, on the port of the previous one if any."""
        command = [
            "-m",
            "tests.services.generator.predictor",
            json.dumps(self._settings),
            str(self.port),
        ]
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, *command, cwd=ROOT, stdout=PIPE
        )
        assert self._process.stdout
        self.port = int(await asyncio.wait_for(self._process.stdout.readline(), 60))

    def signal(self, number: int) -> None:
        assert self._process
        self._process.send_signal(number)

    async def kill(self) -> None:
        """Send SIGKILL, in any process state."""
        if self._process and self._process.returncode is None:
            self.signal(signal.SIGKILL)
            await self._process.wait()

    def state(self) -> str:
        """Return the process state letter of the kernel. T means stopped."""
        assert self._process
        return Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    async def counters(self) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{self.port}/counters") as response,
        ):
            found: dict[str, Any] = await response.json()
            return found

    async def until(self, condition: Any) -> dict[str, Any]:
        """Return the counters once they fulfil a condition."""
        async with asyncio.timeout(20):
            while not condition(found := await self.counters()):
                await asyncio.sleep(0.02)
            return found


@asynccontextmanager
async def model_server(**settings: Any) -> AsyncIterator[ModelServer]:
    server = ModelServer(settings)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@asynccontextmanager
async def generator_process(
    root: Path, predictor_port: int, **changes: Any
) -> AsyncIterator[tuple[Stubs, Process]]:
    """Run `python -m services.generator` on a free port during the block."""
    settings = generator_settings(root, predictor_port, **changes)
    said = settings.model_dump(exclude_unset=True, exclude_none=True)
    variables = {f"TW_GENERATOR_{key.upper()}": str(value) for key, value in said.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.generator",
        cwd=ROOT,
        env={**os.environ, **variables, "PYTHONPATH": "gen"},
        stderr=PIPE,
    )
    reading: asyncio.Task[None] | None = None
    try:
        port = await asyncio.wait_for(_port(process), 60)
        reading = asyncio.create_task(_read(process))
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield stubs_of(channel, port), process
    finally:
        if process.returncode is None:
            process.kill()
        if reading is not None:
            await reading
        await process.communicate()


async def _read(process: Process) -> None:
    """Read the log to its end, since a full pipe would block the process."""
    assert process.stderr
    while await process.stderr.read(1 << 16):
        pass


async def _port(process: Process) -> int:
    """Return the port from the log line `… serving  port=50055`."""
    assert process.stderr
    said = b""
    while line := await process.stderr.readline():
        said += line
        if b" serving " in line and b"port=" in line:
            return int(line.rsplit(b"port=", 1)[1])
    raise AssertionError(f"the generator did not start: {said.decode()}")
