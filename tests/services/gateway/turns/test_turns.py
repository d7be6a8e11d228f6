"""Turns outlive their clients: resume, cancel, disconnect, idempotency, limits, shutdown."""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from prometheus_client import REGISTRY
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.admission import QUEUE_SECONDS, Admission
from services.chassis.errors import (
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from services.chassis.identity import Caller
from services.contracts.chat import FinishReason
from services.gateway.quotas.quota import Holder, Limit
from services.gateway.quotas.quotas import QuotaError
from services.gateway.turns.request import TurnRequest, typed_message
from services.gateway.turns.turn import Turn
from services.gateway.turns.turns import SingleReplica, TurnLimits, Turns
from tests.services.gateway.calls import (
    GeneratorGate,
    cancel,
    resume,
    single_replica,
    until,
    until_text,
)
from tests.services.gateway.gateway_under_test import (
    GatewayUnderTest,
    kinds_of,
    run_gateway,
    text_of,
)
from tests.support.errors import refused
from tests.support.simulated_time import simulate

ADA, BOB = Caller("acme", "ada"), Caller("acme", "bob")
STARTED = chat_pb2.Started(conversation_id="conversation", user_message_id="user message")


async def test_disconnected_client_can_resume_without_loss(gateway: GatewayUnderTest) -> None:
    hold = GeneratorGate(gateway, at=1)
    call = gateway.send()
    seen = await until_text(call)
    call.cancel()
    hold.go.set()
    rest = await resume(gateway, seen[0].message_id, seen[-1].sequence)
    assert text_of(seen + rest) == "The answer is 42."
    assert [event.sequence for event in seen + rest] == list(range(1, len(seen + rest) + 1))
    assert gateway.fakes.session.finished[seen[0].message_id].text == "The answer is 42."
    assert not gateway.fakes.generator.cancelled.is_set()


async def test_many_readers_see_the_same_events_during_and_after_the_turn(
    gateway: GatewayUnderTest,
) -> None:
    hold = GeneratorGate(gateway, at=2)
    call = gateway.send()
    seen = await until_text(call)
    live = asyncio.create_task(resume(gateway, seen[0].message_id))
    await hold.reached.wait()
    hold.go.set()
    first = seen + [event async for event in call]
    assert await live == first
    assert await resume(gateway, seen[0].message_id) == first


async def test_cancel_stops_the_model_at_once_and_keeps_the_text(gateway: GatewayUnderTest) -> None:
    hold = GeneratorGate(gateway, at=2)
    call = gateway.send()
    seen = await until_text(call)
    await hold.reached.wait()
    assert await cancel(gateway, seen[0].message_id) is True
    await asyncio.wait_for(gateway.fakes.generator.cancelled.wait(), 5)
    events = seen + [event async for event in call]
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_CANCELLED
    stored = gateway.fakes.session.finished[seen[0].message_id]
    assert (stored.text, stored.finish_reason) == (
        text_of(events),
        chat_pb2.FINISH_REASON_CANCELLED,
    )
    assert await cancel(gateway, seen[0].message_id) is False


async def test_cancelling_an_expired_turn_has_no_effect(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, keep_seconds=0.01) as gateway:
        events = await gateway.ask()
        await asyncio.sleep(0.05)
        assert await cancel(gateway, events[0].message_id) is False
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resume(gateway, events[0].message_id)
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_other_users_can_neither_resume_nor_cancel(gateway: GatewayUnderTest) -> None:
    hold = GeneratorGate(gateway, at=1)
    call = gateway.send()
    seen = await until_text(call)
    for attempt in (
        resume(gateway, seen[0].message_id, key=gateway.other_key),
        cancel(gateway, seen[0].message_id, gateway.other_key),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await attempt
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    hold.go.set()
    assert text_of(seen + [event async for event in call]) == "The answer is 42."


async def test_disconnect_cancels_only_under_the_cancel_policy(
    gateway: GatewayUnderTest,
) -> None:
    hold = GeneratorGate(gateway, at=1)
    call = gateway.send(on_disconnect=chat_pb2.DISCONNECT_POLICY_CANCEL)
    seen = await until_text(call)
    await hold.reached.wait()
    call.cancel()
    await asyncio.wait_for(gateway.fakes.generator.cancelled.wait(), 5)
    await until(lambda: seen[0].message_id in gateway.fakes.session.finished)
    stored = gateway.fakes.session.finished[seen[0].message_id]
    assert stored.finish_reason == chat_pb2.FINISH_REASON_CANCELLED


async def test_same_request_id_returns_the_turn_and_rejects_another_payload(
    gateway: GatewayUnderTest,
) -> None:
    hold = GeneratorGate(gateway, at=1)
    call = gateway.send(request_id="once")
    seen = await until_text(call)
    again = asyncio.create_task(gateway.ask(request_id="once"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.ask("Something else", request_id="once")
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    hold.go.set()
    first = seen + [event async for event in call]
    assert await again == first
    assert len(gateway.fakes.generator.requests) == 1


async def test_turn_with_a_lost_begin_reply_is_stored_once(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.session.lost_begins = 1
    assert text_of(await gateway.ask()) == "The answer is 42."
    assert gateway.fakes.session.lost_begins == 0
    assert len(gateway.fakes.session.messages) == 2


async def test_request_id_of_a_lost_gateway_returns_the_stored_answer(
    tmp_path: Path,
) -> None:
    async with run_gateway(tmp_path, keep_seconds=0.01) as gateway:
        first = await gateway.ask(request_id="once")
        await asyncio.sleep(0.05)
        again = await gateway.ask(request_id="once")
        assert (again[0].message_id, text_of(again)) == (first[0].message_id, text_of(first))
        assert again[-1].completed == first[-1].completed
        assert len(gateway.fakes.generator.requests) == 1


async def test_failed_turn_without_text_can_be_retried_with_its_request_id(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.generator.away = True
    with pytest.raises(grpc.aio.AioRpcError):
        await gateway.ask(request_id="once")
    gateway.fakes.generator.away = False
    events = await gateway.ask(request_id="once")
    assert text_of(events) == "The answer is 42."
    assert (
        len(
            [
                message
                for message in gateway.fakes.session.messages.values()
                if message.role == chat_pb2.ROLE_USER
            ]
        )
        == 1
    )


async def test_turns_above_the_limit_are_rejected(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, max_turns_per_user=1) as gateway:
        hold = GeneratorGate(gateway, at=1)
        call = gateway.send()
        await until_text(call)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.ask()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = asyncio.create_task(gateway.ask(key=gateway.other_key))
        hold.go.set()
        assert kinds_of(await other)[-1] == "completed"


async def test_shutdown_stores_the_visible_text_as_failed(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, drain_seconds=0.1) as gateway:
        hold = GeneratorGate(gateway, at=1)
        seen = await until_text(gateway.send())
        await hold.reached.wait()
        session = gateway.fakes.session
    stored = session.finished[seen[0].message_id]
    assert (stored.text, stored.finish_reason) == (text_of(seen), chat_pb2.FINISH_REASON_FAILED)


async def test_shutdown_waits_for_turns_without_readers(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, http_drain_seconds=5.0) as gateway:
        hold = GeneratorGate(gateway, at=1)
        call = gateway.send()
        seen = await until_text(call)
        await hold.reached.wait()
        call.cancel()
        asyncio.get_running_loop().call_later(0.3, hold.go.set)
        session = gateway.fakes.session
    stored = session.finished[seen[0].message_id]
    assert (stored.text, stored.finish_reason) == ("The answer is 42.", chat_pb2.FINISH_REASON_STOP)


class Elsewhere(SingleReplica):
    """Remote turns in another gateway, always available."""

    def hand_over(self) -> bool:
        return True


async def test_call_accepted_before_the_drain_begins_its_turn_and_is_redirected() -> None:
    """The call was accepted before the drain. Rejecting it would lose the message."""

    over = asyncio.Event()

    async def answer(turn: Turn) -> None:
        turn.begin("message")
        turn.publish(chat_pb2.ChatEvent(started=STARTED))
        turn.on_stop(over.set)
        await over.wait()

    remote = Elsewhere()
    turns = Turns(
        answer,
        LIMITS,
        replace(single_replica(), remote=remote, history=remote),
        Admission("turns", 8, 10, 1.0),
    )
    turns.hand_over()
    events = turns.start(ADA, TurnRequest(typed_message("hello"))).events_after(0)
    assert (await anext(events)).started == STARTED
    with pytest.raises(UnavailableError) as caught:
        await anext(events)
    assert caught.value.reason == "RESUME_ELSEWHERE"
    await turns.close(0)


async def test_readers_get_an_error_at_shutdown() -> None:
    started = asyncio.Event()

    async def never(turn: Turn) -> None:
        turn.begin("message")
        turn.publish(chat_pb2.ChatEvent(started=STARTED))
        stopped = asyncio.Event()
        turn.on_stop(stopped.set)
        started.set()
        await stopped.wait()
        raise UnavailableError("the gateway is shutting down", reason="SHUTTING_DOWN")

    turns = Turns(never, LIMITS, single_replica(), Admission("turns", 8, 10, 1.0))
    turn = turns.start(ADA, TurnRequest(typed_message("hello")))
    await started.wait()
    await turns.close(0)
    with pytest.raises(UnavailableError) as caught:
        assert [event async for event in turn.events_after(1)]
    assert caught.value.reason == "SHUTTING_DOWN"
    with pytest.raises(UnavailableError):
        turns.start(ADA, TurnRequest(typed_message("hello")))


LIMITS = TurnLimits(turn_seconds=5, keep_seconds=60, max_kept_characters=10)


async def _answer(turn: Turn) -> None:
    turn.begin(f"message of {turn.request.action}")
    turn.publish(chat_pb2.ChatEvent(started=STARTED))
    turn.publish(chat_pb2.ChatEvent(text_delta=chat_pb2.TextDelta(text="six ch")))
    turn.complete(FinishReason.STOP)


async def test_oldest_events_are_evicted_above_the_text_limit() -> None:
    turns = Turns(_answer, LIMITS, single_replica(), Admission("turns", 8, 10, 1.0))
    started = [turns.start(ADA, TurnRequest(typed_message(text))) for text in ("one", "two")]
    for turn in started:
        assert [event async for event in turn.events_after(0)]
    await asyncio.sleep(0)
    with pytest.raises(NotFoundError):
        await turns.resume(ADA, started[0].message_id, 0)
    kept = await turns.resume(ADA, started[1].message_id, 0)
    assert [event async for event in kept] == started[1].events
    await turns.close(1)


async def test_unexpected_error_reaches_readers_without_its_text() -> None:
    async def crash(turn: Turn) -> None:
        raise RuntimeError("the user said hello")

    turns = Turns(crash, LIMITS, single_replica(), Admission("turns", 8, 10, 1.0))
    turn = turns.start(ADA, TurnRequest(typed_message("hello")))
    with refused(ServiceError, field="", reason="INTERNAL", limit="") as caught:
        await anext(turn.events_after(0))
    assert not {"user", "hello"} & set(caught.value.text.split())
    await turns.close(1)


def test_turn_is_queued_until_another_has_text_and_rejected_after_two_seconds() -> None:
    async def play() -> None:
        clock, may_answer = asyncio.get_running_loop().time, asyncio.Event()

        async def answer(turn: Turn) -> None:
            await may_answer.wait()
            await _answer(turn)

        turns = Turns(answer, LIMITS, single_replica(), Admission("turns", 1, 10, 1.0, clock))
        first, second = (
            turns.start(ADA, TurnRequest(typed_message(text), request_id=text))
            for text in ("one", "two")
        )
        with refused(ResourceExhaustedError, reason="OVERLOADED", limit="1 at once"):
            await anext(second.events_after(0))
        assert clock() == QUEUE_SECONDS
        # No text was visible, so the same request_id starts again.
        again = turns.start(ADA, second.request)
        assert again is not second
        asyncio.get_running_loop().call_later(1.0, may_answer.set)
        assert [event async for event in again.events_after(0)] == again.events
        assert clock() == QUEUE_SECONDS + 1.0
        assert first.ended
        await turns.close(1)

    simulate(play())


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (ResourceExhaustedError("the model server's queue is full"), 2),
        (QuotaError(Holder.USER, Limit.TURNS, 1, 1.0, {}), 8),
    ],
    ids=["of a peer", "of a quota"],
)
def test_overload_of_a_peer_lowers_the_limit_and_a_quota_does_not(
    error: ServiceError, limit: int
) -> None:
    async def play() -> None:
        failing = False

        async def answer(turn: Turn) -> None:
            await asyncio.sleep(0.1)
            if failing:
                raise error
            await _answer(turn)

        admission = Admission("turns", 2, 8, 1.0, asyncio.get_running_loop().time)
        turns = Turns(answer, LIMITS, single_replica(), admission)

        async def ask() -> None:
            with suppress(ServiceError):
                async for _ in turns.start(ADA, TurnRequest(typed_message("hello"))).events_after(
                    0
                ):
                    pass

        for failing in (False, True):  # noqa: B007 - read by answer
            for _ in range(20):
                await asyncio.gather(*(ask() for _ in range(8)))
        assert (
            int(REGISTRY.get_sample_value("thumbwheel_admission_limit", {"limiter": "turns"}) or 0)
            == limit
        )
        await turns.close(1)

    simulate(play())


def test_battles_give_way_to_chats() -> None:
    async def play() -> None:
        async def answer(turn: Turn) -> None:
            await asyncio.sleep(10)
            await _answer(turn)

        clock = asyncio.get_running_loop().time
        turns = Turns(answer, LIMITS, single_replica(), Admission("turns", 4, 8, 1.0, clock))
        battle = "battle.018f0000-0000-7000-8000-000000000000.a"

        def begin(model: str) -> Turn:
            return turns.start(ADA, TurnRequest(typed_message("hello"), model=model))

        # Battles fill three of the four places, and the last one stays for a chat.
        battles = [begin(battle) for _ in range(4)]
        chat = begin("")
        with refused(ResourceExhaustedError) as caught:
            async for _ in battles[3].events_after(0):
                pass
        assert clock() == QUEUE_SECONDS
        assert 0 < caught.value.retry_seconds <= 1.5
        for turn in (*battles[:3], chat):
            assert [event async for event in turn.events_after(0)]
        assert clock() == 10
        await turns.close(1)

    simulate(play())


def test_turn_waiting_for_another_gateway_is_not_counted() -> None:
    async def play() -> None:
        async def answer(turn: Turn) -> None:
            if turn.request.request_id:
                await turn.claim(in_doubt=True)
                await asyncio.sleep(10)
            await _answer(turn)

        clock = asyncio.get_running_loop().time
        turns = Turns(answer, LIMITS, single_replica(), Admission("turns", 1, 10, 1.0, clock))
        waiting = [
            turns.start(ADA, TurnRequest(typed_message(name), request_id=name)) for name in "abc"
        ]
        assert [
            event
            async for event in turns.start(ADA, TurnRequest(typed_message("d"))).events_after(0)
        ]
        assert clock() == 0
        for turn in waiting:
            assert [event async for event in turn.events_after(0)]
        await turns.close(1)

    simulate(play())
