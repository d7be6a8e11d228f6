"""The session service as a process: recovery after SIGKILL, and the error without a tokenizer."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.channel import open_channel
from tests.services.session.service import (
    ADA,
    PRINCIPAL_KEY,
    FakeFeedback,
    Home,
    begin,
    feedback_service,
    talk,
)
from tests.services.session.tokenizer import write_tokenizer

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
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while not (
                found := re.search(
                    rb"serving\s+port=(\d+)", line := await process.stderr.readline()
                )
            ):
                assert line, "the service ended before it served"
        async with open_channel(f"127.0.0.1:{int(found[1])}") as channel:
            yield session_pb2_grpc.SessionServiceStub(channel), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sigkill_loses_no_acknowledged_turn_and_publishes_it_after_restart(
    home: Home,
) -> None:
    write_tokenizer(home.directory)
    async with running(home) as (stub, process):
        finished = await talk(stub, "hello", "hi", request_id="r1")
        conversation_id = finished.conversation_id
        opened = await stub.BeginTurn(
            begin("more", conversation_id=conversation_id, request_id="r2"), timeout=5, metadata=ADA
        )
        process.kill()
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        running(home, feedback_target=f"127.0.0.1:{port}") as (stub, process),
    ):
        request = session_pb2.GetConversationRequest(conversation_id=conversation_id)
        stored = await stub.GetConversation(request, timeout=5, metadata=ADA)
        again = await stub.BeginTurn(
            begin("more", conversation_id=conversation_id, request_id="r2"), timeout=5, metadata=ADA
        )
        async with asyncio.timeout(10):
            while not feedback.turns:
                await asyncio.sleep(0.02)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0
    assert [message.text for message in stored.messages] == ["hello", "hi", "more", ""]
    assert again.replayed
    assert again.assistant_message_id == opened.assistant_message_id
    assert [event.message_id for event in feedback.turns] == [finished.assistant_message_id]


async def test_missing_tokenizer_ends_the_service_with_a_clear_error(
    sqlite_home: Home,
) -> None:
    process = await start(sqlite_home)
    _, output = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"tokenizer.json" in output
    assert b"TW_SESSION_TOKENIZER_FILE" in output
    assert b"make up" in output
    assert b"Traceback" not in output
