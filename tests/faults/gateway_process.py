"""A gateway in a separate process, to be killed, over the fakes and the Valkey of the test."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
from thumbwheel.chat.v1 import chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2_grpc
from thumbwheel.review.v1 import appeal_pb2_grpc, arena_pb2_grpc, review_pb2_grpc

from infra.run.supervision.ports import HOST, distinct_free_ports
from services.chassis.channel import open_channel
from services.gateway.store.database import open_database
from services.gateway.store.keys import SqlKeyStore
from tests.services.gateway.fakes import Backends
from tests.services.gateway.gateway_under_test import (
    ADA,
    BOB,
    NAMESAKE,
    GatewayUnderTest,
    new_key,
    settings_of,
)

BOOT_SECONDS = 60.0


@dataclass
class GatewayProcess:
    """A gateway under test in a separate process."""

    clients: GatewayUnderTest
    process: "subprocess.Popen[bytes]"
    log_file: Path

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self.process.kill()

    def terminate(self) -> None:
        """Send SIGTERM, which starts the drain."""
        self.process.send_signal(signal.SIGTERM)

    def pause(self) -> None:
        """Send SIGSTOP, which freezes the process and its view of time."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Send SIGCONT to the frozen process."""
        self.process.send_signal(signal.SIGCONT)

    async def exit_status(self, seconds: float) -> int:
        """Return the exit status, within the time limit."""
        return await asyncio.to_thread(self.process.wait, seconds)

    def lines(self, phrase: str) -> list[str]:
        """Return the log records with this phrase."""
        return [line for line in self.log_file.read_text().splitlines() if phrase in line]


@asynccontextmanager
async def gateway_process(
    directory: Path, fakes: Backends, target: str, **changes: Any
) -> AsyncIterator[GatewayProcess]:
    """Start a gateway, wait until ready, and kill it at the end if running."""
    port, http_port = distinct_free_ports(2)
    settings = settings_of(directory, target, **{"port": port, "http_port": http_port, **changes})
    environment = {f"TW_GATEWAY_{name.upper()}": _text(value) for name, value in settings.items()}
    log_file = directory / f"gateway-{port}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.gateway"],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
    try:
        async with (
            open_channel(f"{HOST}:{port}") as channel,
            aiohttp.ClientSession() as http,
            open_database(settings["database_url"]) as engine,
        ):
            await _ready(channel, process, log_file)
            store = SqlKeyStore(engine)
            clients = GatewayUnderTest(
                fakes=fakes,
                chat=chat_pb2_grpc.ChatServiceStub(channel),
                feedback=feedback_pb2_grpc.FeedbackServiceStub(channel),
                arena=arena_pb2_grpc.ArenaServiceStub(channel),
                appeals=appeal_pb2_grpc.AppealServiceStub(channel),
                reviews=review_pb2_grpc.ReviewServiceStub(channel),
                channel=channel,
                http=http,
                url=f"http://{HOST}:{http_port}",
                grpc_target=f"{HOST}:{port}",
                key=await new_key(store, ADA),
                other_key=await new_key(store, BOB),
                namesakes_key=await new_key(store, NAMESAKE),
                directory=directory,
                app=None,
                store=store,
            )
            yield GatewayProcess(clients, process, log_file)
    finally:
        process.kill()
        process.wait()


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)


async def _ready(
    channel: grpc.aio.Channel, process: "subprocess.Popen[bytes]", log_file: Path
) -> None:
    async with asyncio.timeout(BOOT_SECONDS):
        while channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
            assert process.poll() is None, log_file.read_text()[-2000:]
            await asyncio.sleep(0.05)
