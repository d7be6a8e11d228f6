"""The session service as a process: recovery after SIGKILL, signed calls, errors at the start."""

import asyncio
from pathlib import Path

import grpc
import pytest
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import from_rpc
from services.chassis.identity import Caller
from services.chassis.identity_keys import create_key_pair
from services.chassis.service_identity import IDENTITY_KEY, TokenSigner
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


async def test_data_of_users_are_read_by_signed_calls_of_the_gateway_only(
    sqlite_home: Home, tmp_path: Path
) -> None:
    """S-11: any process that reached the port could name any tenant and user. S-33: file modes."""
    write_tokenizer(sqlite_home.directory)
    public, method = tmp_path / "public", "/thumbwheel.session.v1.SessionService/ListConversations"
    signed = {"": ADA}
    for caller in ("gateway", "training"):
        create_key_pair(caller, tmp_path / f"{caller}.key", public)
        token = TokenSigner(caller, tmp_path / f"{caller}.key").token(method, Caller("acme", "ada"))
        signed[caller] = (*ADA, (IDENTITY_KEY, token))
    refusals = {}
    async with running(sqlite_home, identity_keys=public) as (stub, _):
        request = session_pb2.ListConversationsRequest()
        assert not (
            await stub.ListConversations(request, timeout=10, metadata=signed.pop("gateway"))
        ).conversations
        for caller, metadata in signed.items():
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.ListConversations(request, timeout=10, metadata=metadata)
            refusals[caller] = caught.value.code().name, from_rpc(caught.value, "session").reason
    assert refusals == {
        "": ("UNAUTHENTICATED", "SERVICE_TOKEN_MISSING"),
        "training": ("PERMISSION_DENIED", "PEER_NOT_ALLOWED"),
    }
    database = sqlite_home.directory / "state"
    assert {file.stat().st_mode & 0o077 for file in (database, *database.iterdir())} == {0}


async def test_unusable_identity_key_ends_the_service_with_a_clear_error(
    sqlite_home: Home, tmp_path: Path
) -> None:
    write_tokenizer(sqlite_home.directory)
    process = await start(sqlite_home, identity_keys=tmp_path / "absent")
    _, output = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert str(tmp_path / "absent").encode() in output
    assert b"Traceback" not in output
