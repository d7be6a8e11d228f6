"""F33: a gateway is killed during streams.

Readers through another gateway get the published events once, and an error within seconds.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ServiceError
from tests.faults.gateway_process import gateway_process
from tests.faults.held_streams import DELTAS, HELD_AT, hold_streams
from tests.faults.reader import Reader
from tests.servers import ValkeyServer
from tests.services.gateway.calls import (
    cancel,
    collect,
    counter_value,
    read_to_error,
    resuming,
    sequences,
    until,
)
from tests.services.gateway.fakes import backends
from tests.services.gateway.gateway_under_test import GatewayUnderTest, run_gateway_over, text_of
from tests.services.gateway.two_gateways import valkey_settings

STREAMS = 20
BEFORE_THE_KILL = "".join(DELTAS[:HELD_AT])


@pytest.mark.slow
async def test_killed_gateway_loses_and_repeats_no_event_and_requests_are_answered(
    tmp_path: Path, valkey: ValkeyServer, record_property: Any
) -> None:
    settings = valkey_settings(
        valkey.database(), max_turns_per_user=STREAMS, quota_lease_seconds=1.0
    )
    async with (
        backends() as (fakes, target),
        gateway_process(tmp_path, fakes, target, **settings) as killed,
        run_gateway_over(tmp_path, fakes, target, **settings) as staying,
    ):
        go = hold_streams(fakes)
        readers = [Reader(f"r{number}") for number in range(STREAMS)]
        reading = asyncio.gather(*(reader.read(killed.clients, staying) for reader in readers))
        await until_text_is(readers, BEFORE_THE_KILL)
        # The last batch has been published, after a linger of 10 ms.
        await asyncio.sleep(1.0)
        followers = [
            asyncio.create_task(read_to_error(resuming(staying, reader.message_id)))
            for reader in readers
        ]
        lost = counter_value("thumbwheel_gateway_readers_lost_total")
        killed.kill()
        killed_at = time.monotonic()
        errors = await asyncio.wait_for(reading, 30)
        followed = await asyncio.wait_for(asyncio.gather(*followers), 30)
        seconds = time.monotonic() - killed_at
        # The fault affected both kinds of readers, direct ones and those in the other gateway.
        assert all(len(reader.moves) == 1 for reader in readers)
        assert counter_value("thumbwheel_gateway_readers_lost_total") >= lost + 2 * STREAMS
        _check_said_once(readers, errors)
        for events, error in followed:
            assert error.reason == "GATEWAY_LOST"
            assert sequences(events) == list(range(1, len(events) + 1))
            assert text_of(events) == BEFORE_THE_KILL
        # Each reader waits for a possible return of the lost gateway.
        cancelled = await asyncio.gather(
            *(cancel(staying, reader.message_id) for reader in readers)
        )
        assert cancelled == [False] * STREAMS
        assert not fakes.session.finished
        go.set()
        await _ask_again(staying, readers)
    record_property("fired", 2 * STREAMS)
    record_property("all_told_seconds", round(seconds, 1))


def _check_said_once(readers: list[Reader], errors: list[ServiceError | None]) -> None:
    for reader, error in zip(readers, errors, strict=True):
        assert error is not None
        assert error.reason == "GATEWAY_LOST"
        reader.check_order()
        assert reader.text == BEFORE_THE_KILL


async def _ask_again(staying: GatewayUnderTest, readers: list[Reader]) -> None:
    """Repeat the requests, and check for the same turns and released quotas."""
    before = len(staying.fakes.session.messages)
    await asyncio.sleep(1.5)
    again = await asyncio.gather(
        *(
            collect(
                staying.send(
                    f"Question {reader.request_id}", request_id=reader.request_id, timeout=60
                )
            )
            for reader in readers
        )
    )
    for reader, events in zip(readers, again, strict=True):
        assert events[0].message_id == reader.message_id
        assert text_of(events) == "".join(DELTAS)
        assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_STOP
        # Text of the first attempt is not continued with text of the second.
        _, error = await read_to_error(resuming(staying, reader.message_id, after=3))
        assert error.reason == "ANSWER_BEGAN_ANEW"
    assert len(staying.fakes.session.messages) == before


async def until_text_is(readers: list[Reader], text: str) -> None:
    async with asyncio.timeout(60):
        while not all(reader.text == text for reader in readers):
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_paused_gateway_yields_to_the_gateway_that_took_over(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    settings = valkey_settings(valkey.database(), turn_lease_seconds=0.5)
    async with (
        backends() as (fakes, target),
        gateway_process(tmp_path, fakes, target, **settings) as slept,
        run_gateway_over(tmp_path, fakes, target, **settings) as awake,
    ):
        go, reader = hold_streams(fakes), Reader("r")
        reading = asyncio.create_task(reader.read(slept.clients, awake))
        await until_text_is([reader], BEFORE_THE_KILL)
        await asyncio.sleep(0.5)
        slept.pause()
        await asyncio.sleep(1.5)
        again = asyncio.create_task(collect(awake.send("Question r", request_id="r", timeout=60)))
        await until(lambda: len(fakes.generator.requests) == 2)
        slept.resume()
        error = await asyncio.wait_for(reading, 30)
        # The reader of the first attempt gets an error and restarts at the beginning of the second.
        assert reader.moves == ["TURN_TAKEN_OVER"]
        assert error is not None
        assert error.reason == "ANSWER_BEGAN_ANEW"
        assert not fakes.session.finished
        go.set()
        events = await again
        assert (events[0].message_id, text_of(events)) == (reader.message_id, "".join(DELTAS))
    assert fakes.session.finished[reader.message_id].text == "".join(DELTAS)
    assert fakes.session.finished[reader.message_id].finish_reason == chat_pb2.FINISH_REASON_STOP
