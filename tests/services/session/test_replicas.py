"""Two replicas on one Postgres database: races between replicas, and a single relay."""

import asyncio
import itertools
import random
from typing import Any

import grpc
import pytest
from thumbwheel.session.v1 import session_pb2

from tests.services.session.replicas import foreign_connection, two_replicas
from tests.services.session.service import (
    ADA,
    FakeFeedback,
    Home,
    begin,
    feedback_service,
    finish,
    talk,
)

EXPECTED_CODES = {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}


async def read(home: Home, query: str) -> Any:
    async with foreign_connection(home) as connection:
        return await connection.fetchval(query)


@pytest.mark.parametrize("known", [False, True], ids=["a new conversation", "a known conversation"])
async def test_one_request_at_both_replicas_is_stored_once(
    postgres_home: Home, known: bool
) -> None:
    async with two_replicas(postgres_home) as both:
        conversation_id = (await talk(both[0], "hello", "hi")).conversation_id if known else ""
        request = begin("more", conversation_id=conversation_id, request_id="r")
        calls = [stub.BeginTurn(request, timeout=5, metadata=ADA) for stub in both * 10]
        turns = await asyncio.gather(*calls)
    assert (
        len(
            {
                (turn.conversation_id, turn.user_message_id, turn.assistant_message_id)
                for turn in turns
            }
        )
        == 1
    )
    assert sum(not turn.replayed for turn in turns) == 1
    assert await read(postgres_home, "SELECT count(*) FROM messages WHERE text = 'more'") == 1


async def test_one_answer_finished_at_both_replicas_is_published_once(postgres_home: Home) -> None:
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        two_replicas(postgres_home, feedback_target=f"127.0.0.1:{port}") as both,
    ):
        turn = await both[0].BeginTurn(begin("hello"), timeout=5, metadata=ADA)
        answers = [finish(turn.assistant_message_id, text) for text in ("hi", "ho")]
        calls = [
            stub.FinishTurn(answer, timeout=5, metadata=ADA) for answer in answers for stub in both
        ]
        ends = await asyncio.gather(*calls, return_exceptions=True)
        async with asyncio.timeout(10):
            while not feedback.turns:
                await asyncio.sleep(0.02)
    refused = [end.code() for end in ends if isinstance(end, grpc.aio.AioRpcError)]
    assert refused == [grpc.StatusCode.FAILED_PRECONDITION] * 2, (
        "the first text is stored, independently of the replica"
    )
    assert len(feedback.turns) == 1


async def test_races_with_an_erasure_leave_a_consistent_tree_and_no_deadlock(
    postgres_home: Home,
) -> None:
    chance = random.Random(7)
    async with two_replicas(postgres_home) as both:
        for _ in range(12):
            turn = await talk(both[0], "hello", "hi")
            which = {"conversation_id": turn.conversation_id}
            calls = [
                ("BeginTurn", begin("go on", **which)),
                (
                    "BeginTurn",
                    begin("branch", parent_message_id=turn.assistant_message_id, **which),
                ),
                ("BeginTurn", begin("edit", parent_message_id=turn.conversation_id, **which)),
                ("BeginTurn", begin(regenerate_message_id=turn.assistant_message_id)),
                ("FinishTurn", finish(turn.assistant_message_id, "hi")),
                ("ClearConversation", session_pb2.ClearConversationRequest(**which)),
                ("DeleteConversation", session_pb2.DeleteConversationRequest(**which)),
            ]
            chance.shuffle(calls)
            await asyncio.gather(
                *(typed(getattr(chance.choice(both), method), request) for method, request in calls)
            )
    orphans = (
        "SELECT count(*) FROM messages m WHERE parent_id <> ''"
        " AND NOT EXISTS (SELECT FROM messages p WHERE p.id = m.parent_id)"
    )
    assert await read(postgres_home, orphans) == 0
    assert (
        await read(
            postgres_home,
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()",
        )
        == 0
    )


async def test_concurrent_erasures_of_one_user_count_each_conversation_once(
    postgres_home: Home,
) -> None:
    async with two_replicas(postgres_home) as both:
        for number in range(8):
            await both[number % 2].BeginTurn(begin("hello"), timeout=5, metadata=ADA)
        calls = [
            stub.EraseUser(session_pb2.EraseUserRequest(), timeout=5, metadata=ADA) for stub in both
        ]
        assert sum(done.removed_conversations for done in await asyncio.gather(*calls)) == 8
    assert await read(postgres_home, "SELECT count(*) FROM conversations") == 0


async def test_one_of_two_relays_sends_and_conversations_keep_their_order(
    postgres_home: Home,
) -> None:
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        two_replicas(
            postgres_home, feedback_target=f"127.0.0.1:{port}", relay_linger_seconds=0.0
        ) as both,
    ):

        async def client(number: int) -> list[str]:
            finished: list[str] = []
            conversation_id = ""
            for turn in range(6):
                done = await talk(
                    both[(number + turn) % 2], f"{number}-{turn}", "yes", conversation_id
                )
                conversation_id = done.conversation_id
                finished.append(done.assistant_message_id)
            return finished

        finished_by_client = await asyncio.gather(*(client(number) for number in range(6)))
        async with asyncio.timeout(10):
            while len(feedback.turns) < 36:
                await asyncio.sleep(0.02)
    assert sorted(event.message_id for event in feedback.turns) == sorted(
        itertools.chain.from_iterable(finished_by_client)
    )
    place = {event.message_id: number for number, event in enumerate(feedback.turns)}
    assert all(
        [place[message] for message in finished] == sorted(place[message] for message in finished)
        for finished in finished_by_client
    )


async def typed(method: Any, request: Any) -> None:
    try:
        await method(request, timeout=5, metadata=ADA)
    except grpc.aio.AioRpcError as error:
        assert error.code() in EXPECTED_CODES, error.details()
