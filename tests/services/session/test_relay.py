"""Outbox and relay: publication of turns, at least once and in order, and erasure records."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import (
    AlreadyExistsError,
    InvalidArgumentError,
    ServiceError,
    UnavailableError,
)
from services.session.relay import Relay, RelayIntervals
from services.session.store.outbox import FRAMING_BYTES, MAX_BATCH_BYTES, Lease, Outbox
from services.session.store.schema import open_database
from services.session.store.tables import ADD_RECORDS
from tests.services.session.service import (
    ADA,
    LIMITS,
    PRINCIPAL_KEY,
    SAMPLE,
    FakeFeedback,
    Home,
    begin,
    feedback_service,
    finish,
    session_service,
    talk,
)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


async def test_finished_turn_is_published_with_the_exact_model_input(home: Home) -> None:
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}") as stub,
    ):
        await talk(stub, "first", "yes")
        opening = await talk(
            stub,
            "one",
            "two",
            history=[chat_pb2.HistoryMessage(role=chat_pb2.ROLE_SYSTEM, text="be brief")],
        )
        user = session_pb2.UserMessage(original_text="thre", text="three")
        request = begin(user=user, conversation_id=opening.conversation_id, task=chat_pb2.TASK_CHAT)
        turn = await stub.BeginTurn(request, timeout=5, metadata=ADA)
        last = finish(
            turn.assistant_message_id,
            "four",
            finish_reason=chat_pb2.FINISH_REASON_OUTPUT_BLOCKED,
            usage=chat_pb2.Usage(prompt_tokens=5, completion_tokens=6, cached=True),
            policy_version="p1",
            guard_category="secret",
            assignment_probability=0.25,
            arm="candidate",
            task=chat_pb2.TASK_CODE,
        )
        last.ClearField("sample")
        await stub.FinishTurn(last, timeout=5, metadata=ADA)
        await until(lambda: len(feedback.turns) == 3)
    event = feedback.turns[2]
    assert (
        event.principal == hmac.new(PRINCIPAL_KEY.encode(), b"acme/ada", hashlib.sha256).hexdigest()
    )
    assert Timestamp() != event.finish_time
    context = [(1, "be brief"), (2, "one"), (3, "two"), (2, "three")]
    expected = events_pb2.TurnEvent(
        event_id=event.event_id,
        tenant="acme",
        principal=event.principal,
        conversation_id=turn.conversation_id,
        user_message_id=turn.user_message_id,
        message_id=turn.assistant_message_id,
        context=[
            chat_pb2.HistoryMessage(role=chat_pb2.Role.ValueType(role), text=text)
            for role, text in context
        ],
        original_text="thre",
        answer="four",
        finish_reason=chat_pb2.FINISH_REASON_OUTPUT_BLOCKED,
        model_version="v1",
        arm="candidate",
        assignment_probability=0.25,
        task=chat_pb2.TASK_CHAT,
        temperature=0.5,
        top_p=0.5,
        usage=chat_pb2.Usage(prompt_tokens=5, completion_tokens=6),
        policy_version="p1",
        guard_category="secret",
        finish_time=event.finish_time,
        cached=True,
        parent_message_id=opening.assistant_message_id,
    )
    assert event == expected
    # The task of the request, not the one of the answer; the first turn has neither.
    assert feedback.turns[0].task == chat_pb2.TASK_UNSPECIFIED
    # The first message has no parent, which is not the same as an absent field.
    assert feedback.turns[0].HasField("parent_message_id")
    assert feedback.turns[0].parent_message_id == ""
    assert feedback.turns[0].sample == feedback.turns[1].sample == SAMPLE


async def test_a_new_answer_and_an_edit_have_the_parent_of_the_earlier_turn(home: Home) -> None:
    """The feedback service counts implicit signals by these ids."""
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}") as stub,
    ):
        opening = await talk(stub, "one", "two")
        place = {
            "conversation_id": opening.conversation_id,
            "parent_message_id": opening.assistant_message_id,
        }
        await talk(stub, "three", "four", **place)
        await talk(stub, "five", "six", **place)
        again = session_pb2.BeginTurnRequest(
            regenerate_message_id=opening.assistant_message_id, task=chat_pb2.TASK_CHAT
        )
        turn = await stub.BeginTurn(again, timeout=5, metadata=ADA)
        await stub.FinishTurn(finish(turn.assistant_message_id, "2"), timeout=5, metadata=ADA)
        await until(lambda: len(feedback.turns) == 4)
    first, reply, edited, regenerated = feedback.turns
    assert reply.parent_message_id == edited.parent_message_id == first.message_id
    assert reply.user_message_id < edited.user_message_id
    assert regenerated.user_message_id == first.user_message_id
    assert regenerated.parent_message_id == first.parent_message_id == ""
    assert regenerated.message_id > first.message_id


async def test_turn_without_a_model_answer_is_not_published(home: Home) -> None:
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}") as stub,
    ):
        for reason in (chat_pb2.FINISH_REASON_INPUT_BLOCKED, chat_pb2.FINISH_REASON_FAILED):
            turn = await stub.BeginTurn(begin("hello"), timeout=5, metadata=ADA)
            ended = finish(
                turn.assistant_message_id, "no", finish_reason=reason, model_version="", arm=""
            )
            await stub.FinishTurn(ended, timeout=5, metadata=ADA)
        failed = await stub.BeginTurn(begin("hello"), timeout=5, metadata=ADA)
        ended = finish(failed.assistant_message_id, "", finish_reason=chat_pb2.FINISH_REASON_FAILED)
        await stub.FinishTurn(ended, timeout=5, metadata=ADA)
        await until(lambda: bool(feedback.turns))
    assert [event.message_id for event in feedback.turns] == [failed.assistant_message_id]


async def test_turns_arrive_in_order_and_at_least_once_despite_failures(home: Home) -> None:
    feedback = FakeFeedback(failures=["before", "after", "before", "after"])
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}") as stub,
    ):
        turns = [await talk(stub, f"number {number}", "yes") for number in range(6)]
        await until(
            lambda: not feedback.failures and {t.message_id for t in feedback.turns} == ids(turns)
        )
        stored = list(feedback.turns)
    assert len(stored) > 6, "a call that failed after the write is sent again"
    first_seen = list(dict.fromkeys(event.message_id for event in stored))
    assert first_seen == [turn.assistant_message_id for turn in turns]
    assert len({event.event_id for event in stored}) == 6


async def test_turns_wait_for_the_feedback_service_across_a_restart(
    home: Home,
) -> None:
    async with session_service(home) as stub:
        turns = [await talk(stub, f"number {number}", "yes") for number in range(3)]
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}") as stub,
    ):
        await until(lambda: {event.message_id for event in feedback.turns} == ids(turns))
        await talk(stub, "one more", "yes")
        await until(lambda: len(feedback.turns) == 4)


async def test_erased_turn_gives_an_erasure_record_without_texts(home: Home) -> None:
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}") as stub,
    ):
        turn = await talk(stub, "hello", "hi")
        unfinished = begin("more", conversation_id=turn.conversation_id)
        never_published = await stub.BeginTurn(unfinished, timeout=5, metadata=ADA)
        await until(lambda: len(feedback.turns) == 1)
        delete = session_pb2.DeleteConversationRequest(conversation_id=turn.conversation_id)
        await stub.DeleteConversation(delete, timeout=5, metadata=ADA)
        await until(lambda: len(feedback.turns) == 3)
    published, erased, never = feedback.turns
    # Feedback on an unpublished answer may exist.
    assert (never.message_id, never.erased) == (never_published.assistant_message_id, True)
    assert erased.erased
    assert erased.event_id != published.event_id
    assert not (
        erased.context or erased.answer or erased.original_text or erased.HasField("sample")
    )
    assert published.sample == SAMPLE
    for name in (
        "message_id",
        "user_message_id",
        "conversation_id",
        "principal",
        "tenant",
        "model_version",
    ):
        assert getattr(erased, name) == getattr(published, name), name


async def test_unrelayed_turns_are_removed_with_their_conversation(home: Home) -> None:
    async with session_service(home) as stub:
        turn = await talk(stub, "xylophone", "hi")
        clear = session_pb2.ClearConversationRequest(conversation_id=turn.conversation_id)
        await stub.ClearConversation(clear, timeout=5, metadata=ADA)
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}"),
    ):
        await until(lambda: bool(feedback.turns))
    assert [(event.message_id, event.erased) for event in feedback.turns] == [
        (turn.assistant_message_id, True)
    ]


async def test_waiting_erasure_record_survives_a_second_erasure(
    home: Home,
) -> None:
    async with session_service(home) as stub:
        turn = await talk(stub, "hello", "hi")
        which = {"conversation_id": turn.conversation_id}
        await stub.ClearConversation(
            session_pb2.ClearConversationRequest(**which), timeout=5, metadata=ADA
        )
        await stub.DeleteConversation(
            session_pb2.DeleteConversationRequest(**which), timeout=5, metadata=ADA
        )
    feedback = FakeFeedback()
    async with (
        feedback_service(feedback) as port,
        session_service(home, feedback_target=f"127.0.0.1:{port}"),
    ):
        await until(lambda: bool(feedback.turns))
    assert [(event.message_id, event.erased) for event in feedback.turns] == [
        (turn.assistant_message_id, True)
    ]


class FakeTurnLog:
    """Fake `TurnLog`; records calls, and refuses the payload `bad` and payloads in `errors`."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.errors: dict[bytes, ServiceError] = {}
        self.unavailable = False

    async def append(self, payloads: Any) -> None:
        if self.unavailable:
            raise UnavailableError("unavailable")
        for payload in payloads:
            if payload in self.errors:
                raise self.errors[payload]
        if b"bad" in payloads:
            raise InvalidArgumentError("bad", field="turns[0]")
        self.calls.append(list(payloads))


async def outbox_with(
    home: Home, payloads: list[bytes], check: Callable[[Relay, Outbox, FakeTurnLog], Any]
) -> None:
    rows = [{"conversation_id": "c", "refused": False, "payload": payload} for payload in payloads]
    async with open_database(home.database_url, LIMITS) as database:
        await database.write(lambda connection: connection.execute(ADD_RECORDS, rows))
        outbox, log = Outbox(database, Lease(1.0)), FakeTurnLog()
        await check(Relay(outbox, log, RelayIntervals(1.0, 0.0, 1.0, 0.3)), outbox, log)


async def test_refused_record_does_not_block_later_records(home: Home) -> None:
    async def check(relay: Relay, outbox: Outbox, log: FakeTurnLog) -> None:
        assert await relay.relay_batch()
        assert not await relay.relay_batch()
        assert log.calls == [[b"one"], [b"two"]]
        assert (await outbox.claim()).waiting == 0

    await outbox_with(home, [b"one", b"bad", b"two"], check)


async def relay_until_idle(relay: Relay, most: int = 100) -> None:
    for _ in range(most):
        try:
            if not await relay.relay_batch():
                return
        except ServiceError:
            continue


@pytest.mark.parametrize("error", [AlreadyExistsError("known"), UnavailableError("internal")])
@pytest.mark.parametrize("place", [0, 5, 9])
async def test_failing_record_is_set_aside_and_does_not_block_others(
    home: Home, error: ServiceError, place: int
) -> None:
    """Finding S-20: a record with any lasting error blocked all turns and erasures."""
    payloads = [f"turn {number}".encode() for number in range(10)]

    async def check(relay: Relay, outbox: Outbox, log: FakeTurnLog) -> None:
        log.errors[payloads[place]] = error
        await relay_until_idle(relay)
        late = {"conversation_id": "c", "refused": False, "erased": True, "payload": b"late"}
        await outbox._database.write(lambda c: c.execute(ADD_RECORDS, [late]))
        await relay_until_idle(relay)
        sent = [payload for call in log.calls for payload in call]
        assert sent == [*payloads[:place], *payloads[place + 1 :], b"late"]
        assert (await outbox.claim()).waiting == 0

    await outbox_with(home, payloads, check)


async def test_an_outage_sets_no_record_aside_and_keeps_the_order(home: Home) -> None:
    """Finding S-20: the limit of attempts counts only while the feedback service works."""
    payloads = [f"turn {number}".encode() for number in range(10)]

    async def check(relay: Relay, outbox: Outbox, log: FakeTurnLog) -> None:
        log.unavailable = True
        await relay_until_idle(relay, most=50)
        assert (await outbox.claim()).waiting == 10
        log.unavailable = False
        await relay_until_idle(relay)
        assert [payload for call in log.calls for payload in call] == payloads
        assert (await outbox.claim()).waiting == 0

    await outbox_with(home, payloads, check)


async def test_batches_respect_the_limits_of_one_call(home: Home) -> None:
    async def check(relay: Relay, outbox: Outbox, log: FakeTurnLog) -> None:
        while await relay.relay_batch():
            pass
        assert [len(call) for call in log.calls] == [2, 500, 3]

    half = b"x" * (MAX_BATCH_BYTES // 2 - FRAMING_BYTES)
    await outbox_with(home, [half, half, *[b"y"] * 503], check)


async def test_records_are_kept_while_the_turn_log_is_unavailable(home: Home) -> None:
    async def check(relay: Relay, outbox: Outbox, log: FakeTurnLog) -> None:
        log.unavailable = True
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0.1)
        assert (log.calls, (await outbox.claim()).waiting) == ([], 2)
        log.unavailable = False
        # In one call, or in two after several failures.
        await until(lambda: sum(map(len, log.calls)) == 2)
        running.cancel()
        assert [payload for call in log.calls for payload in call] == [b"one", b"two"]

    await outbox_with(home, [b"one", b"two"], check)


def ids(turns: list[Any]) -> set[str]:
    return {turn.assistant_message_id for turn in turns}
