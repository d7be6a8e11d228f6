"""Processes of the session service."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from thumbwheel.session.v1 import session_pb2_grpc

from services.chassis.channel import open_channel
from tests.services.session.service import PRINCIPAL_KEY, Home
from tests.support.service_process import served_port

ROOT = Path(__file__).resolve().parents[3]


async def start(home: Home, *arguments: str, **settings: Any) -> asyncio.subprocess.Process:
    values = {
        "port": 0,
        "metrics_port": 0,
        "database_url": home.database_url,
        "principal_key": PRINCIPAL_KEY,
        "tokenizer_file": home.directory / "tokenizer.json",
        "feedback_target": "127.0.0.1:1",
    } | settings
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TW_")}
    environment = kept | {
        f"TW_SESSION_{name.upper()}": str(value) for name, value in values.items()
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.session",
        *arguments,
        cwd=ROOT,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running(
    home: Home, **settings: Any
) -> AsyncIterator[tuple[Any, asyncio.subprocess.Process]]:
    """Start the service and yield a client stub and the process; kill the process at the end."""
    process = await start(home, **settings)
    try:
        port = await served_port(process)
        async with open_channel(f"127.0.0.1:{port}") as channel:
            yield session_pb2_grpc.SessionServiceStub(channel), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
