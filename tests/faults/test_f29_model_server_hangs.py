"""F29: the model server is frozen with SIGSTOP, during one answer and before another."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.chassis.errors import ServiceError, from_rpc
from tests.faults.generator import model_server
from tests.services.generator.service import Stubs, ask, generator_service, text_of, until_ready

SHORT = {"hang_seconds": 0.7, "reconcile_seconds": 0.2}
AS_SHIPPED = {"hang_seconds": 5.0, "reconcile_seconds": 1.0}


async def ending(stubs: Stubs, events: list[Any]) -> tuple[ServiceError, float]:
    """Return reason and time of the end of an answer."""
    try:
        async for event in stubs.generator.Generate(ask(), timeout=60):
            events.append(event)
    except grpc.aio.AioRpcError as error:
        return from_rpc(error, "generator"), time.monotonic()
    raise AssertionError("the answer came to its end")


@pytest.mark.parametrize("waits", [SHORT, pytest.param(AS_SHIPPED, marks=pytest.mark.long)])
async def test_hanging_model_server_is_detected_and_its_answer_given_up(
    tmp_path: Path, waits: dict[str, float], record_property: Any
) -> None:
    async with (
        model_server(script=["word "] * 10_000, pace_seconds=0.02) as server,
        generator_service(tmp_path, server.port, **waits) as stubs,
    ):
        await until_ready(stubs, "v1")
        midway: list[Any] = []
        begun = asyncio.create_task(ending(stubs, midway))
        before = await server.until(lambda counters: counters["words"] > 5)
        server.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        unbegun: list[Any] = []
        ends = await asyncio.gather(begun, ending(stubs, unbegun))
        assert server.state() == "T", "it was not stopped, so this test has shown nothing"

        assert [error.code for error, _ in ends] == [grpc.StatusCode.UNAVAILABLE] * 2
        assert [error.reason for error, _ in ends] == ["MODEL_SERVER_SILENT"] * 2
        detected = max(at for _, at in ends) - stopped
        record_property("fired", 1)
        record_property("detected_seconds", round(detected, 2))
        assert detected <= 10
        assert text_of(midway).startswith("word word ")
        assert text_of(unbegun) == ""
        refused, _ = await ending(stubs, [])
        assert refused.reason == "MODEL_NOT_READY", (
            "later ones need not wait for the same discovery"
        )

        server.signal(signal.SIGCONT)
        after = await server.until(
            lambda counters: counters["running"] == 0 and counters["aborted_at"]
        )
        assert before["words"] <= after["words"] < 1000, "the model server stopped early"
        await until_ready(stubs, "v1")
        again = stubs.generator.Generate(ask(), timeout=20)
        assert (await again.read()).selected.model_version == "v1"
        again.cancel()
        assert (await server.counters())["loads"] == ["v1"]
