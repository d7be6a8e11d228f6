"""Erasure with two gateways: the other gateway and Valkey are cleared, and outages are reported."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2
from valkey.asyncio import Valkey

from services.chassis.errors import NotFoundError, UnavailableError, from_rpc
from services.gateway.shared import erasure_requests
from tests.servers import ValkeyServer
from tests.services.gateway.calls import GeneratorGate, read_to_error, resume, resuming, until_text
from tests.services.gateway.gateway_under_test import GatewayUnderTest
from tests.services.gateway.two_gateways import everything, two_gateways

# A short lease, for frequent polling.
LEASE_SECONDS = 1.0

Two = tuple[GatewayUnderTest, GatewayUnderTest]


@pytest.fixture
def url(valkey: ValkeyServer) -> str:
    return valkey.database()


@pytest.fixture
async def two(tmp_path: Path, url: str) -> AsyncIterator[Two]:
    async with two_gateways(tmp_path, url, turn_lease_seconds=LEASE_SECONDS) as both:
        yield both


async def erase(gateway: GatewayUnderTest) -> Any:
    return await gateway.feedback.EraseMyData(
        feedback_pb2.EraseMyDataRequest(), timeout=30, metadata=gateway.metadata()
    )


async def test_ended_turns_of_the_user_are_removed_from_all_gateways(two: Two, url: str) -> None:
    mine = [await gateway.ask(request_id=f"at {number}") for number, gateway in enumerate(two)]
    theirs = await two[1].ask(key=two[1].other_key)
    assert await resume(two[1], mine[0][0].message_id) == mine[0]
    assert await resume(two[0], mine[1][0].message_id) == mine[1]
    assert (await erase(two[0])).removed_conversations == 2
    for gateway in two:
        for turn in mine:
            events, error = await read_to_error(resuming(gateway, turn[0].message_id))
            assert (events, type(error)) == ([], NotFoundError)
        assert await resume(gateway, theirs[0].message_id, key=gateway.other_key) == theirs
    # Longer than the time for publishing turns again after a loss in Valkey.
    await asyncio.sleep(2 * LEASE_SECONDS)
    kept = await everything(url)
    assert theirs[0].message_id in kept
    assert [turn[0].message_id for turn in mine if turn[0].message_id in kept] == []


async def test_running_turn_of_another_gateway_is_stopped_and_never_stored(
    two: Two, url: str
) -> None:
    here, there = two
    hold = GeneratorGate(there, at=1)
    call = there.send()
    seen = await until_text(call)
    await hold.reached.wait()
    assert await resume_start(here, seen[0].message_id) == seen[0]
    assert (await erase(here)).removed_conversations == 1
    # The conversation has been removed, so the shown text cannot be stored.
    assert type((await read_to_error(call))[1]) is NotFoundError
    assert there.fakes.generator.cancelled.is_set()
    assert seen[0].message_id not in there.fakes.session.finished
    assert seen[0].message_id not in await everything(url)


async def resume_start(gateway: GatewayUnderTest, message_id: str) -> chat_pb2.ChatEvent:
    call = resuming(gateway, message_id)
    async for event in call:
        call.cancel()
        return event  # type: ignore[no-any-return]
    raise AssertionError("no event")


async def test_unresponsive_gateway_makes_the_erasure_unavailable(
    two: Two, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure_requests, "STOP_SECONDS", 0.0)
    await two[0].ask()
    async with Valkey.from_url(url) as client:
        await client.set("tw:{gateway/stuck}:beat", "0-0", px=60_000)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await erase(two[0])
        error = from_rpc(caught.value, "gateway")
        assert (type(error), error.reason) == (UnavailableError, "ERASURE_UNFINISHED")
        # The other steps of the erasure are complete.
        assert len(two[0].fakes.feedback.erasures) == 1
        await client.delete("tw:{gateway/stuck}:beat")
    await erase(two[0])
    assert len(two[0].fakes.feedback.erasures) == 1


async def test_later_gateway_has_nothing_to_remove(tmp_path: Path, url: str) -> None:
    async with two_gateways(tmp_path, url, turn_lease_seconds=LEASE_SECONDS) as (here, _):
        await here.ask()
        await erase(here)
    async with two_gateways(tmp_path, url, turn_lease_seconds=LEASE_SECONDS) as (here, there):
        hold = GeneratorGate(here, at=1)
        call = here.send()
        seen = await until_text(call)
        await asyncio.sleep(LEASE_SECONDS)
        hold.go.set()
        events = seen + [event async for event in call]
        assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_STOP
        assert await resume(there, events[0].message_id) == events


async def test_valkey_outage_makes_the_erasure_unavailable_until_repeated(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    patient = {"turn_lease_seconds": LEASE_SECONDS, "valkey_seconds": 0.5}
    async with two_gateways(tmp_path, valkey.database(), **patient) as two:
        turn = await two[1].ask()
        valkey.pause()
        try:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await erase(two[0])
        finally:
            valkey.resume()
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # The other steps of the erasure are complete.
        assert (
            len(two[0].fakes.feedback.erasures),
            len(two[0].fakes.session.conversations),
        ) == (
            1,
            0,
        )
        await until_erased(two[0])
        for gateway in two:
            assert (
                type((await read_to_error(resuming(gateway, turn[0].message_id)))[1])
                is NotFoundError
            )


async def until_erased(gateway: GatewayUnderTest) -> None:
    """Repeat the erasure as requested by the error."""
    async with asyncio.timeout(20):
        while True:
            try:
                await erase(gateway)
                return
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE
                await asyncio.sleep(0.1)
