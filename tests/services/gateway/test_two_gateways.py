"""Turns across two gateways: resumed, cancelled and requested through the other gateway."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from valkey.asyncio import Valkey

from services.chassis.errors import (
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from tests.servers import ValkeyServer
from tests.services.gateway.calls import (
    GeneratorGate,
    cancel,
    collect,
    counter_value,
    read_to_error,
    resume,
    resuming,
    sequences,
    until,
    until_text,
)
from tests.services.gateway.fakes import FORBIDDEN, STABLE, backends
from tests.services.gateway.gateway_under_test import (
    GatewayUnderTest,
    kinds_of,
    run_gateway_over,
    text_of,
)
from tests.services.gateway.two_gateways import everything, two_gateways, valkey_settings

Two = tuple[GatewayUnderTest, GatewayUnderTest]


@pytest.fixture
async def two(tmp_path: Path, valkey: ValkeyServer) -> AsyncIterator[Two]:
    async with two_gateways(tmp_path, valkey.database()) as both:
        yield both


async def test_turn_continues_through_another_gateway_without_gap_or_repetition(two: Two) -> None:
    here, there = two
    hold = GeneratorGate(here, at=2)
    call = here.send()
    seen = await until_text(call)
    call.cancel()
    rest = resuming(there, seen[0].message_id, seen[-1].sequence)
    live = asyncio.create_task(collect(rest))
    await hold.reached.wait()
    hold.go.set()
    events = seen + await live
    assert sequences(events) == list(range(1, len(events) + 1))
    assert text_of(events) == "The answer is 42."
    assert kinds_of(events) == ["started", "text_delta", "usage", "completed"]
    assert await resume(here, seen[0].message_id) == events
    assert await resume(there, seen[0].message_id) == events
    assert await resume(there, seen[0].message_id, events[-1].sequence) == []


async def test_every_kind_of_event_arrives_unchanged(two: Two) -> None:
    here, there = two
    for text in ("hw does it work?", f"Do the {FORBIDDEN} thing"):
        sent = await here.ask(text)
        assert await resume(there, sent[0].message_id) == sent


async def test_failed_turn_has_the_same_error_in_another_gateway(two: Two) -> None:
    here, there = two
    here.fakes.generator.breaks_after = 2
    sent, error = await read_to_error(here.send())
    read, same = await read_to_error(resuming(there, sent[0].message_id))
    assert read == sent
    assert (type(same), same.text, same.reason) == (type(error), error.text, error.reason)


async def test_turns_of_other_users_are_missing_in_another_gateway(two: Two) -> None:
    here, there = two
    sent = await here.ask()
    foreign = await read_to_error(resuming(there, sent[0].message_id, key=there.other_key))
    missing = await read_to_error(
        resuming(there, "018f0000-0000-7000-8000-000000000000", key=there.other_key)
    )
    assert isinstance(foreign[1], NotFoundError)
    assert (foreign[1].text, foreign[1].reason, foreign[1].field) == (
        missing[1].text,
        missing[1].reason,
        missing[1].field,
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await cancel(there, sent[0].message_id, there.other_key)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_unknown_sequence_is_rejected_in_another_gateway(two: Two) -> None:
    here, there = two
    sent = await here.ask()
    _, error = await read_to_error(resuming(there, sent[0].message_id, after=99))
    assert isinstance(error, InvalidArgumentError)
    assert (error.field, error.limit) == (
        "after_sequence",
        f"at most the last sequence, {len(sent)}",
    )


async def test_unknown_sequence_is_rejected_when_the_turn_ends_before_it(
    two: Two,
) -> None:
    here, there = two
    hold = GeneratorGate(here, at=1)
    call = here.send()
    seen = await until_text(call)
    ahead = asyncio.create_task(read_to_error(resuming(there, seen[0].message_id, after=99)))
    await hold.reached.wait()
    hold.go.set()
    events, error = await ahead
    assert (events, type(error)) == ([], InvalidArgumentError)
    call.cancel()


async def test_cancel_reaches_the_answering_gateway(two: Two) -> None:
    here, there = two
    hold = GeneratorGate(here, at=2)
    call = here.send()
    seen = await until_text(call)
    await hold.reached.wait()
    assert await cancel(there, seen[0].message_id) is True
    await asyncio.wait_for(here.fakes.generator.cancelled.wait(), 30)
    events = seen + [event async for event in call]
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_CANCELLED
    stored = here.fakes.session.finished[seen[0].message_id]
    assert (stored.text, stored.finish_reason) == (
        text_of(events),
        chat_pb2.FINISH_REASON_CANCELLED,
    )
    assert await cancel(there, seen[0].message_id) is False


async def test_same_request_at_two_gateways_is_one_turn(two: Two) -> None:
    hold = GeneratorGate(two[0], at=1)
    calls = [gateway.send(request_id="once") for gateway in (*two, *two, two[0])]
    reading = [asyncio.create_task(collect(call)) for call in calls]
    await hold.reached.wait()
    hold.go.set()
    answers = await asyncio.gather(*reading)
    assert all(answer == answers[0] for answer in answers)
    assert sequences(answers[0]) == list(range(1, len(answers[0]) + 1))
    assert text_of(answers[0]) == "The answer is 42."
    assert len(two[0].fakes.generator.requests) == 1
    assert len(two[0].fakes.session.messages) == 2


async def test_failed_turn_fails_equally_for_the_same_request_elsewhere(
    two: Two,
) -> None:
    here, there = two
    hold = GeneratorGate(here, at=1)
    here.fakes.generator.breaks_after = 2
    reading = [
        asyncio.create_task(read_to_error(gateway.send(request_id="once"))) for gateway in two
    ]
    await hold.reached.wait()
    await asyncio.sleep(0.1)
    hold.go.set()
    (events, error), (same_events, same_error) = await asyncio.gather(*reading)
    assert kinds_of(events) == ["started", "text_delta", "completed"]
    assert same_events == events
    assert (same_error.text, same_error.reason) == (error.text, error.reason)
    assert len(there.fakes.session.messages) == 2


async def test_readers_joining_at_different_times_get_their_missing_events(
    two: Two,
) -> None:
    here, there = two
    here.fakes.generator.deltas = [f"word{number} " for number in range(8)]
    # The generator waits for the reader, so the number of events does not depend on time.
    holds = [asyncio.Event() for _ in here.fakes.generator.deltas]
    here.fakes.generator.gate = lambda number: holds[number].wait()
    call, seen = here.send(), []
    for hold in holds[:5]:
        hold.set()
        seen += await until_text(call)
    assert sequences(seen) == [1, 2, 3, 4, 5, 6]
    joined = counter_value("thumbwheel_gateway_resumes_total", where="elsewhere")
    after = (0, 0, 2, 4, 6)
    late = [asyncio.create_task(resume(there, seen[0].message_id, number)) for number in after]
    await until(
        lambda: (
            counter_value("thumbwheel_gateway_resumes_total", where="elsewhere")
            == joined + len(after)
        )
    )
    for hold in holds[5:]:
        hold.set()
    events = seen + await collect(call)
    assert await asyncio.gather(*late) == [events[number:] for number in after]


async def test_request_answered_elsewhere_shows_the_same_events_and_sequences(
    two: Two,
) -> None:
    here, there = two
    first = await here.ask(request_id="once")
    assert await there.ask(request_id="once") == first
    assert len(here.fakes.generator.requests) == 1


@pytest.mark.parametrize(
    "policy", [chat_pb2.DISCONNECT_POLICY_CANCEL, chat_pb2.DISCONNECT_POLICY_DETACH]
)
async def test_reader_leaving_a_followed_turn_does_not_stop_the_turn(
    two: Two, policy: chat_pb2.DisconnectPolicy.ValueType
) -> None:
    here, there = two
    hold = GeneratorGate(here, at=1)
    call = here.send(request_id="once", on_disconnect=policy)
    seen = await until_text(call)
    copy = there.send(request_id="once", on_disconnect=policy)
    assert (await until_text(copy))[0] == seen[0]
    assert counter_value("thumbwheel_turns_running") == 2
    copy.cancel()
    await hold.reached.wait()
    await until(lambda: counter_value("thumbwheel_turns_running") == 1)
    await asyncio.sleep(0.1)
    assert not here.fakes.generator.cancelled.is_set()
    hold.go.set()
    assert text_of(seen + [event async for event in call]) == "The answer is 42."


async def test_failed_turn_without_text_can_be_retried_elsewhere(two: Two) -> None:
    here, there = two
    here.fakes.generator.away = True
    await read_to_error(here.send(request_id="once"))
    here.fakes.generator.away = False
    async with asyncio.timeout(5):
        while True:
            # Until its end is published, the first turn counts as running, and its error is
            # returned here.
            try:
                events = await there.ask(request_id="once")
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
    assert text_of(events) == "The answer is 42."
    assert events[0].started.model_version == STABLE
    assert len(here.fakes.session.messages) == 2


async def test_restarted_answer_is_readable_only_from_its_beginning(two: Two) -> None:
    here, _ = two
    here.fakes.generator.away = True
    await read_to_error(here.send(request_id="once"))
    here.fakes.generator.away = False
    events = await here.ask(request_id="once")
    for gateway in two:
        _, error = await read_to_error(resuming(gateway, events[0].message_id, after=1))
        assert (type(error), error.reason) == (FailedPreconditionError, "ANSWER_BEGAN_ANEW")
        assert await resume(gateway, events[0].message_id) == events


async def test_user_text_in_valkey_is_encrypted(tmp_path: Path, valkey: ValkeyServer) -> None:
    url = valkey.database()
    async with two_gateways(tmp_path, url) as (here, there):
        here.fakes.generator.deltas = ["canary-answer"]
        sent = await here.ask("canary-question hw it goes", request_id="canary-request")
        assert await resume(there, sent[0].message_id) == sent
        kept = await everything(url)
    assert sent[0].message_id in kept
    assert "canary" not in kept


async def test_gateway_with_another_secret_reports_unreadable_events(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    url = valkey.database()
    async with (
        backends() as (fakes, target),
        run_gateway_over(tmp_path, fakes, target, **valkey_settings(url)) as here,
        run_gateway_over(
            tmp_path, fakes, target, **valkey_settings(url, valkey_secret="quite another one")
        ) as there,
    ):
        sent = await here.ask()
        events, error = await read_to_error(resuming(there, sent[0].message_id))
        assert (events, type(error), error.reason) == (
            [],
            UnavailableError,
            "SHARED_EVENTS_UNREADABLE",
        )


async def test_ended_turn_that_an_older_copy_shows_as_running_is_abandoned(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    url = valkey.database()
    async with (
        two_gateways(tmp_path, url, turn_lease_seconds=0.5) as (here, there),
        Valkey.from_url(url) as operator,
    ):
        sent = await here.ask(request_id="once")
        message_id = sent[0].message_id
        turn = f"tw:{{turn/{message_id}}}"
        assert await resume(there, message_id) == sent, "the end is in Valkey"
        attempt = (await operator.hget(turn, "attempt")).decode()
        # The state of Valkey before the end, ten seconds after the last write.
        stream = f"{turn}:events:{attempt}"
        await operator.xdel(stream, f"{len(sent) + 1}-0")
        await operator.hdel(turn, "events")
        await operator.hincrby(turn, "write_ms", -10_000)
        _, error = await read_to_error(resuming(there, message_id))
        assert error.reason == "EVENTS_LOST"
        again = await there.ask(request_id="once")
        assert (again[0].message_id, text_of(again)) == (message_id, text_of(sent))
        assert len(here.fakes.generator.requests) == 1


async def test_running_turn_of_a_gateway_with_a_shorter_keep_time_is_not_abandoned(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    url = valkey.database()
    async with (
        backends() as (fakes, target),
        run_gateway_over(tmp_path, fakes, target, **valkey_settings(url, keep_seconds=60)) as here,
        run_gateway_over(tmp_path, fakes, target, **valkey_settings(url)) as there,
    ):
        hold = GeneratorGate(here, at=1)
        call = here.send(request_id="once")
        seen = await until_text(call)
        copy = there.send(request_id="once")
        assert (await until_text(copy))[0] == seen[0], "the attempt of the first gateway"
        hold.go.set()
        assert text_of(seen + await collect(call)) == "The answer is 42."
        assert len(fakes.generator.requests) == 1
