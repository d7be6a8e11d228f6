"""The session service as a process: recovery after SIGKILL, and the error without a tokenizer."""

import asyncio

from thumbwheel.session.v1 import session_pb2

from tests.services.session.processes import running, start
from tests.services.session.service import (
    ADA,
    FakeFeedback,
    Home,
    begin,
    feedback_service,
    talk,
)
from tests.services.session.tokenizer import write_tokenizer


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
