"""Limits of stored conversations of a user and of a tenant (finding S-14)."""

import asyncio
from typing import Any

import grpc
import pytest
from sqlalchemy import Connection, Select
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import ServiceError, from_rpc
from services.session.store.schema import open_database
from services.session.store.tables import COUNT_CONVERSATIONS, COUNT_TENANT_CONVERSATIONS
from tests.services.session.service import (
    ADA,
    BOB,
    LIMITS,
    OTHER_ADA,
    UNKNOWN_ID,
    Home,
    begin,
    session_service,
)


async def begun(stub: Any, metadata: Any = ADA, **fields: Any) -> session_pb2.BeginTurnResponse:
    response = await stub.BeginTurn(begin("hello", **fields), timeout=9, metadata=metadata)
    assert isinstance(response, session_pb2.BeginTurnResponse)
    return response


async def refused(stub: Any, metadata: Any = ADA, **fields: Any) -> ServiceError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await begun(stub, metadata, **fields)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return from_rpc(caught.value, "session")


async def test_clients_that_keep_their_conversation_are_not_refused(home: Home) -> None:
    async with session_service(home, max_conversations_per_user=1) as stub:
        await begun(stub, client_keeps_conversation=True)
        await begun(stub, client_keeps_conversation=True)
        await begun(stub)
        assert (await refused(stub)).reason == "TOO_MANY_CONVERSATIONS"
        await begun(stub, client_keeps_conversation=True)


async def test_client_that_keeps_its_conversations_does_not_use_places_of_its_tenant(
    home: Home,
) -> None:
    async with session_service(home, max_conversations_per_tenant=1) as stub:
        kept = [await begun(stub, client_keeps_conversation=True) for _ in range(2)]
        # Also not after another turn.
        await begun(stub, conversation_id=kept[0].conversation_id)
        await begun(stub, BOB)
        assert (await refused(stub, BOB)).limit == "1 conversations of the tenant"


@pytest.mark.parametrize("statement", [COUNT_CONVERSATIONS, COUNT_TENANT_CONVERSATIONS])
async def test_count_reads_no_conversation_that_a_client_keeps(
    statement: Select[Any], home: Home
) -> None:
    values = {"owner_tenant": "a", "owner_user": "b", "most": 1}

    def plan(connection: Connection) -> str:
        explain = "EXPLAIN QUERY PLAN"
        if connection.dialect.name == "postgresql":
            # An empty table is otherwise read without an index.
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            explain = "EXPLAIN"
        query = statement.params(values).compile(
            dialect=connection.dialect, compile_kwargs={"literal_binds": True}
        )
        return str(connection.exec_driver_sql(f"{explain} {query}").all())

    async with open_database(home.database_url, LIMITS) as database:
        assert "conversations_that_count" in await database.write(plan)


async def test_new_conversation_above_the_limit_of_a_user_is_refused(home: Home) -> None:
    async with session_service(home, max_conversations_per_user=2) as stub:
        first = await begun(stub, request_id="first")
        await begun(stub)
        error = await refused(stub)
        assert (error.reason, error.limit) == (
            "TOO_MANY_CONVERSATIONS",
            "2 conversations of a user",
        )
        # Turns of stored conversations, replays, and other users are not affected.
        await begun(stub, conversation_id=first.conversation_id)
        assert (await begun(stub, request_id="first")).replayed
        for metadata in (BOB, OTHER_ADA):
            await begun(stub, metadata)
        listed = await stub.ListConversations(
            session_pb2.ListConversationsRequest(), timeout=9, metadata=ADA
        )
        assert len(listed.conversations) == 2
        await stub.DeleteConversation(
            session_pb2.DeleteConversationRequest(conversation_id=first.conversation_id),
            timeout=9,
            metadata=ADA,
        )
        await begun(stub)
        await refused(stub)


async def test_limit_of_a_tenant_covers_all_its_users_and_no_other_tenant(home: Home) -> None:
    async with session_service(home, max_conversations_per_tenant=2) as stub:
        for metadata in (ADA, BOB):
            await begun(stub, metadata)
        error = await refused(stub)
        assert error.limit == "2 conversations of the tenant"
        await begun(stub, OTHER_ADA)


async def test_zero_is_unlimited(home: Home) -> None:
    limits = {"max_conversations_per_user": 0, "max_conversations_per_tenant": 0}
    async with session_service(home, **limits) as stub:
        for _ in range(3):
            await begun(stub)


async def test_unknown_conversation_is_not_counted(home: Home) -> None:
    async with session_service(home, max_conversations_per_user=1) as stub:
        await begun(stub)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await begun(stub, conversation_id=UNKNOWN_ID)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_concurrent_conversations_do_not_exceed_the_limit(postgres_home: Home) -> None:
    async with (
        session_service(postgres_home, max_conversations_per_user=3) as one,
        session_service(postgres_home, max_conversations_per_user=3) as other,
    ):
        results = await asyncio.gather(
            *(begun(stub) for stub in (one, other) for _ in range(6)), return_exceptions=True
        )
    assert sum(isinstance(each, session_pb2.BeginTurnResponse) for each in results) == 3
