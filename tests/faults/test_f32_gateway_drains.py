"""F32: a gateway receives SIGTERM during streams.

Its readers continue through another gateway without a gap, while the turns end where they began.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc

from services.chassis.channel import open_channel
from tests.faults.gateway_process import gateway_process
from tests.faults.held_streams import DELTAS, hold_streams
from tests.faults.reader import Reader
from tests.servers import ValkeyServer
from tests.services.gateway.fakes import backends
from tests.services.gateway.gateway_under_test import run_gateway_over
from tests.services.gateway.two_gateways import valkey_settings


@pytest.mark.slow
@pytest.mark.parametrize("streams", [30, pytest.param(200, marks=pytest.mark.long)])
async def test_draining_gateway_hands_its_readers_over(
    tmp_path: Path, valkey: ValkeyServer, streams: int, record_property: Any
) -> None:
    # The test is about the end, not about admission. With paused answers a sudden crowd would never
    # be admitted completely. One process of fakes stands in for five services.
    doors = {"sure_turns": streams, "sure_concurrent_rpcs": 4 * streams}
    waits = {f"{name}_seconds": 60 for name in ("guard", "session", "enhancer", "idle")}
    settings = valkey_settings(
        valkey.database(),
        max_turns_per_user=0,
        lame_duck_seconds=0.2,
        drain_seconds=20,
        http_drain_seconds=30,
        **doors,
        **waits,
    )
    async with (
        backends(sure_concurrent_rpcs=4 * streams) as (fakes, target),
        gateway_process(tmp_path, fakes, target, **settings) as ending,
        run_gateway_over(tmp_path, fakes, target, **settings) as staying,
    ):
        go = hold_streams(fakes)
        readers = [Reader(f"r{number}") for number in range(streams)]
        reading = asyncio.gather(*(reader.read(ending.clients, staying) for reader in readers))
        await asyncio.wait_for(
            asyncio.gather(*(reader.first_text.wait() for reader in readers)), 60
        )
        ending.terminate()
        terminated_at = time.monotonic()
        await _until_all_moved(readers)
        moved_seconds = time.monotonic() - terminated_at
        go.set()
        errors = await asyncio.wait_for(reading, 60)
        status = await ending.exit_status(60)
        drained_seconds = time.monotonic() - terminated_at
    assert status == 0
    assert errors == [None] * streams
    # The fault affected every reader.
    assert [reader.moves for reader in readers] == [["RESUME_ELSEWHERE"]] * streams
    for reader in readers:
        reader.check_order()
        assert reader.text == "".join(DELTAS)
        assert reader.events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_STOP
        assert fakes.session.finished[reader.message_id].text == reader.text
    assert len(fakes.generator.requests) == streams
    record_property("fired", streams)
    record_property("told_to_wait", sum(reader.refusals for reader in readers))
    record_property("all_moved_seconds", round(moved_seconds, 1))
    record_property("drained_seconds", round(drained_seconds, 1))


async def _until_all_moved(readers: list[Reader]) -> None:
    async with asyncio.timeout(60):
        while not all(reader.moves for reader in readers):
            await asyncio.sleep(0.02)


async def test_readers_stay_to_the_end_without_valkey(tmp_path: Path) -> None:
    nowhere = valkey_settings("valkey://127.0.0.1:1", drain_seconds=20)
    async with backends() as (fakes, target):
        go, reader = hold_streams(fakes), Reader("r")
        async with AsyncExitStack() as client:
            async with run_gateway_over(tmp_path, fakes, target, **nowhere) as ending:
                channel = await client.enter_async_context(open_channel(ending.grpc_target))
                visitor = replace(ending, chat=chat_pb2_grpc.ChatServiceStub(channel))
                reading = asyncio.create_task(reader.read(visitor, visitor))
                await asyncio.wait_for(reader.first_text.wait(), 30)
                asyncio.get_running_loop().call_later(0.5, go.set)
            # The gateway has drained.
            assert await reading is None
    assert (reader.moves, reader.text) == ([], "".join(DELTAS))
