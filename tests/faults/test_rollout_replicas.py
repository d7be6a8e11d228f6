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
# Default intervals of polling and unloading.
SHIPPED = {"poll_seconds": 0.5, "reconcile_seconds": 1.0, "unload_grace_seconds": 5.0}


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
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(predictor_server(FakePredictor()))
        services = [
            generator_service(root, port, database_url=database, **SHIPPED) for _ in range(2)
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


def degrade_errors(predictor: FakePredictor) -> None:
    predictor.refused_versions = {"v2"}


def degrade_latency(predictor: FakePredictor) -> None:
    predictor.delays = {"v2": 0.3}


@pytest.mark.long
@pytest.mark.parametrize("degrade", [degrade_errors, degrade_latency])
async def test_a_degraded_version_is_rolled_back_after_the_owner_of_the_watch_was_killed(
    tmp_path: Path, database: str, degrade: Any, record_property: Any
) -> None:
    """No loop and no feedback service runs, and all intervals are the default ones."""
    predictor = FakePredictor(delays={"v1": 0.05, "v2": 0.05})
    changes = {
        **SHIPPED,
        "database_url": database,
        "watch_share": 0.2,
        "feedback_target": "127.0.0.1:1",
    }
    users = [f"acme/user {number}" for number in range(50)]
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(predictor_server(predictor))
        here, process = await stack.enter_async_context(
            generator_process(tmp_path, port, **changes)
        )
        await until_ready(here, "v1")
        await here.start("v2", model_directory(tmp_path, "v2"))
        await here.promote("v2")
        async with asyncio.timeout(30):
            while not (owner := (await here.state()).watch.owner):
                await asyncio.sleep(0.05)
        there, _ = await stack.enter_async_context(generator_process(tmp_path, port, **changes))
        await until_ready(there, "v2")

        async def ask_all() -> None:
            asked = (there.generate(user_key=user) for user in users)
            await asyncio.gather(*asked, return_exceptions=True)

        async def answering() -> set[str]:
            asked = (there.version_for(user) for user in users)
            return {str(found) for found in await asyncio.gather(*asked, return_exceptions=True)}

        for _ in range(5):
            await ask_all()
        assert (await there.state()).watch.owner == owner
        degrade(predictor)
        process.kill()
        began, answers = time.monotonic(), 0
        async with asyncio.timeout(120):
            while (await there.state()).stable.version != "v1":
                await ask_all()
                answers += len(users)
                await asyncio.sleep(0.5)
        record_property("rolled_back_seconds", round(time.monotonic() - began, 1))
        record_property("requests", answers)
        change = (await there.state()).history[0]
        record_property("reason", change.reason)
        assert (change.kind, change.version) == ("watch_rolled_back", "v2")
        rolled_back = time.monotonic()
        async with asyncio.timeout(60):
            while await answering() != {"v1"}:
                await asyncio.sleep(0.05)
        record_property("all_traffic_seconds", round(time.monotonic() - rolled_back, 2))
