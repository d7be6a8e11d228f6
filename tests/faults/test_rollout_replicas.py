"""Two generators share a rollout and survive the loss of one of them or of the database.

No user changes version and no model is loaded twice.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.generator.v1 import generator_pb2

from tests.faults.generator import generator_process, model_server
from tests.servers import PostgresServer
from tests.services.generator.canaries import error_of
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.replicas import agreed, expected, replicas, versions
from tests.services.generator.service import Stubs, generator_service, model_directory, until_ready

AWAY = "ROLLOUT_STORE_UNAVAILABLE"


async def test_surviving_replica_finishes_a_load_without_a_second_one(
    tmp_path: Path, database: str
) -> None:
    directory = model_directory(tmp_path, "v2")
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(model_server(load_seconds=2))
        starts = [
            stack.enter_async_context(
                generator_process(tmp_path, server.port, database_url=database)
            )
            for _ in range(2)
        ]
        (here, process), (there, _) = await asyncio.gather(*starts)
        for stubs in (here, there):
            await until_ready(stubs, "v1")
        starting = asyncio.create_task(here.start("v2", directory))
        await server.until(lambda counters: "v2" in counters["loads"])
        process.kill()
        with pytest.raises(grpc.aio.AioRpcError):
            await starting
        candidate = (await there.state()).candidate
        assert candidate.state == generator_pb2.VERSION_STATE_LOADING, (
            "it was loaded before: this test has shown nothing"
        )
        assert candidate.share == 0, "the candidate has no approval yet"
        assert await versions(there) == ["v1"] * len(expected(0.5))
        await there.start("v2", directory)
        assert await versions(there) == expected(0.5)
        counters = await server.counters()
        history = [change.kind for change in (await there.state()).history]
    assert counters["loads"] == ["v1", "v2"]
    assert "v2" in counters["joined"], "the other one asked for it too"
    assert history == ["started"]


@pytest.mark.parametrize("how", ["kill", pytest.param("pause", marks=pytest.mark.long)])
async def test_replicas_without_database_answer_as_before_and_reject_changes(
    tmp_path: Path, database: str, postgres: PostgresServer, how: str, record_property: Any
) -> None:
    predictor = FakePredictor()
    async with replicas(tmp_path, predictor, database, database_seconds=0.5) as pair:
        await pair[0].start("v2", model_directory(tmp_path, "v2"))
        await agreed(pair, expected(0.5))
        before = await pair[0].state()
        await asyncio.to_thread(getattr(postgres, how))
        try:
            for stubs in pair:
                error = await error_of(stubs.promote("v2"))
                assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, AWAY)
            assert [await versions(stubs) for stubs in pair] == [expected(0.5)] * 2
            asked = time.monotonic()
            states = [await stubs.state() for stubs in pair]
            assert time.monotonic() - asked < 5, "the page and the loop wait for this"
        finally:
            await asyncio.to_thread(postgres.start if how == "kill" else postgres.resume)
        assert [state.candidate.version for state in states] == ["v2", "v2"]
        assert all(state.HasField("stale_since_time") for state in states), (
            "it says that it may be out of date"
        )
        assert not before.HasField("stale_since_time")
        back = time.monotonic()
        await until_known(pair)
        record_property("back_seconds", round(time.monotonic() - back, 2))
        await pair[1].promote("v2")
        await agreed(pair, ["v2"] * len(expected(0.5)))
    assert predictor.counters.loads == ["v1", "v2"]
    assert predictor.counters.unloads in ([], ["v1"])


async def until_known(pair: Sequence[Stubs]) -> None:
    """Wait until every replica has polled the database again."""
    async with asyncio.timeout(20):
        while any([(await stubs.state()).HasField("stale_since_time") for stubs in pair]):
            await asyncio.sleep(0.05)


@asynccontextmanager
async def default_intervals(root: Path, database: str) -> AsyncIterator[Sequence[Stubs]]:
    """Run two replicas with default intervals of polling and unloading."""
    shipped = {"poll_seconds": 0.5, "reconcile_seconds": 1.0, "unload_grace_seconds": 5.0}
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(predictor_server(FakePredictor()))
        services = [
            generator_service(root, port, database_url=database, **shipped) for _ in range(2)
        ]
        yield [await stack.enter_async_context(service) for service in services]


@pytest.mark.long
async def test_change_at_one_replica_reaches_the_other_within_a_second(
    tmp_path: Path, database: str, record_property: Any
) -> None:
    waits: list[float] = []
    async with default_intervals(tmp_path, database) as pair:
        for stubs in pair:
            await until_ready(stubs, "v1")
        directory = model_directory(tmp_path, "v2")
        for number in range(10):
            here = pair[number % 2]
            await here.start("v2", directory)
            waits.append(await agreed(pair, expected(0.5)))
            await here.roll_back("v2")
            waits.append(await agreed(pair, ["v1"] * len(expected(0.5))))
    record_property("window_ms", [round(wait * 1000) for wait in sorted(waits)])
    assert max(waits) < 2.5
