"""F57: SIGTERM arrives while clients hold health streams and do not read them.

The process ends with status 0 within its drain, and other watchers receive NOT_SERVING.
"""

import asyncio
import signal
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.faults.processes import replica
from tests.support.http2 import grpc_message, raw_connection

WATCH = b"/grpc.health.v1.Health/Watch"
WATCHERS = 8
DRAIN_SECONDS = 1.0
# A hanging process, as in finding S-03, never ended; a busy machine needs seconds.
END_SECONDS = 30.0
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.long
async def test_f57_watchers_that_do_not_read_do_not_delay_the_end(record_property: Any) -> None:
    async with (
        replica(drain_seconds=DRAIN_SECONDS, lame_duck_seconds=0.2) as process,
        AsyncExitStack() as clients,
    ):
        for _ in range(WATCHERS):
            stalled = await clients.enter_async_context(
                raw_connection(process.port, response_window=0)
            )
            await stalled.start_call(WATCH, data=grpc_message(b""))
        channel = await clients.enter_async_context(grpc.aio.insecure_channel(process.target))
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=END_SECONDS
        )
        assert (await watch.read()).status == SERVING
        began = time.monotonic()
        process.send(signal.SIGTERM)
        assert (await watch.read()).status == NOT_SERVING
        async with asyncio.timeout(END_SECONDS):
            assert await process.ended() == 0
        seconds = time.monotonic() - began
    record_property("fired", WATCHERS)
    record_property("ended_after_seconds", round(seconds, 1))
