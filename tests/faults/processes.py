"""Replicas as real processes: started, stopped, paused and killed within the block."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc

from tests.support.service_process import served_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


class Process:
    """Process of one replica."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process, self.port = process, port
        # The output is discarded, since a full pipe would block the process.
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def send(self, signal_number: signal.Signals) -> None:
        self._process.send_signal(signal_number)

    async def ended(self) -> int:
        """Return the exit status."""
        return await self._process.wait()

    async def stop(self) -> None:
        """Kill the process if it is running."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reading

    async def count(self, word: str) -> int:
        """Return the number of calls with this first word."""
        async with grpc.aio.insecure_channel(self.target) as channel:
            stub = enhancer_pb2_grpc.EnhancerServiceStub(channel)
            return int(
                (
                    await stub.Enhance(
                        enhancer_pb2.EnhanceRequest(text=f"count {word}"), timeout=10
                    )
                ).text
            )

    async def _read(self) -> None:
        assert self._process.stderr
        while await self._process.stderr.readline():
            pass


async def start_replica(**settings: Any) -> Process:
    """Start a replica and wait until it serves."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TW_")}
    given = {
        f"TW_REPLICA_{name.upper()}": str(value) for name, value in ({"port": 0} | settings).items()
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.faults.replica",
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
        env=kept | given | {"PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"},
    )
    return Process(process, await served_port(process, START_SECONDS))


@asynccontextmanager
async def replica(**settings: Any) -> AsyncIterator[Process]:
    """Run a replica during the block."""
    process = await start_replica(**settings)
    try:
        yield process
    finally:
        await process.stop()
