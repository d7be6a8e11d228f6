"""Counts of generations by version: added in memory, stored together, never counted twice."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from thumbwheel.generator.v1 import generator_pb2

from sequential.figures import RATIO
from services.chassis.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from services.contracts.chat import Arm, Usage
from services.generator.rollout.current_rollout import STORE_UNAVAILABLE
from services.generator.rollout.rollout import Assignment
from services.generator.rollout.traffic import (
    ALL_TIME,
    OUTCOME_UNKNOWN,
    CountKey,
    CountKind,
    TrafficCounter,
    bin_of,
)
from services.generator.store.database import RolloutRow, open_rollout_row
from services.generator.store.store import MAX_COUNTED_VERSIONS, RolloutFile
from tests.services.generator.canaries import error_of
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.replicas import replicas
from tests.services.generator.service import (
    Stubs,
    ask,
    generator_service,
    until_ready,
)
from tests.support.errors import refused

V1 = Assignment("v1", Arm.STABLE, 1.0)
WATCH_US = 7


def requests(version: str, since_us: int = ALL_TIME) -> CountKey:
    return CountKey(version, since_us, CountKind.REQUESTS, 0)


@pytest.fixture(params=["file", "postgres"])
def opened(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AbstractAsyncContextManager[RolloutFile | RolloutRow]:
    if request.param == "file":
        return nullcontext(RolloutFile(tmp_path / "rollout.json"))
    return open_rollout_row(request.getfixturevalue("database"), 5)


@given(st.floats(1, 1e9))
def test_a_value_lies_within_its_bin(value: float) -> None:
    number = bin_of(value)
    assert RATIO**number * (1 - 1e-9) <= value <= RATIO ** (number + 1) * (1 + 1e-9)


def test_values_below_one_are_in_the_first_bin() -> None:
    assert [bin_of(value) for value in (0, 0.2, 1, 1.049)] == [0] * 4


async def test_counts_are_added_by_version_and_watch(
    opened: AbstractAsyncContextManager[RolloutFile | RolloutRow],
) -> None:
    error = CountKey("v1", ALL_TIME, CountKind.ERRORS, 0)
    async with opened as store:
        await store.add_traffic({requests("v1"): 2, requests("v2"): 1, requests("v2", WATCH_US): 1})
        await store.add_traffic({requests("v1"): 3, error: 1})
        assert await store.read_traffic(["v1", "v3"], ALL_TIME) == {requests("v1"): 5, error: 1}
        assert await store.read_traffic(["v1", "v2"], WATCH_US) == {requests("v2", WATCH_US): 1}
        await store.forget_traffic(WATCH_US)
        assert await store.read_traffic(["v2"], WATCH_US) == {requests("v2", WATCH_US): 1}
        await store.forget_traffic(WATCH_US + 1)
        assert await store.read_traffic(["v2"], WATCH_US) == {}
        assert await store.read_traffic(["v2"], ALL_TIME) == {requests("v2"): 1}


async def test_concurrent_flushes_of_two_replicas_add_up(database: str) -> None:
    many = {CountKey("v1", 0, CountKind.TOTAL_TOKENS, number): 1 for number in range(100)}
    async with open_rollout_row(database, 5) as one, open_rollout_row(database, 5) as other:
        for _ in range(5):
            await asyncio.gather(
                one.add_traffic(many), other.add_traffic(dict(reversed(many.items())))
            )
        assert await one.read_traffic(["v1"], ALL_TIME) == dict.fromkeys(many, 10)


async def test_a_transaction_of_more_rows_than_a_statement_takes_is_added_whole(
    database: str,
) -> None:
    many = {CountKey("v1", 0, CountKind.TOTAL_TOKENS, number): 1 for number in range(1_100)}
    async with open_rollout_row(database, 5) as row:
        await row.add_traffic(many)
        assert await row.read_traffic(["v1"], ALL_TIME) == many


async def test_the_file_keeps_the_versions_that_were_counted_last(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path / "rollout.json")
    names = [f"v{number}" for number in range(MAX_COUNTED_VERSIONS)]
    await file.add_traffic({requests(name): 1 for name in names})
    await file.add_traffic({requests("v0"): 1})
    await file.add_traffic({requests("new"): 1})
    assert set(await file.read_traffic([*names, "new"], ALL_TIME)) == {
        requests(name) for name in [*names, "new"] if name != "v1"
    }


async def test_unreadable_counts_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "traffic.json").write_text("{")
    with refused(UnavailableError, reason=STORE_UNAVAILABLE):
        await RolloutFile(tmp_path / "rollout.json").add_traffic({requests("v1"): 1})
    assert (tmp_path / "traffic.json").read_text() == "{"


class FailingStore:
    """A store that raises an error, possibly after it has added the counts."""

    def __init__(self, reason: str, adds: bool) -> None:
        self.counts: dict[CountKey, int] = {}
        self.failing = True
        self._reason, self._adds = reason, adds

    async def add_traffic(self, counts: Mapping[CountKey, int]) -> None:
        await asyncio.sleep(0)
        if not self.failing or self._adds:
            for key, count in counts.items():
                self.counts[key] = self.counts.get(key, 0) + count
        if self.failing:
            raise UnavailableError("no answer", reason=self._reason)

    async def read_traffic(self, versions: Any, since_us: int) -> Mapping[CountKey, int]:
        return self.counts

    async def forget_traffic(self, except_since_us: int) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("reason", "adds", "expected"),
    [(STORE_UNAVAILABLE, False, 2), (OUTCOME_UNKNOWN, True, 2), (OUTCOME_UNKNOWN, False, 1)],
)
async def test_no_outcome_of_a_flush_counts_twice(reason: str, adds: bool, expected: int) -> None:
    store = FailingStore(reason, adds)
    traffic = TrafficCounter(store, lambda: None)
    traffic.begin(V1).finished(0.1, Usage(3, 4))
    await traffic.flush()
    store.failing = False
    traffic.begin(V1).finished(0.1, Usage(3, 4))
    await asyncio.gather(traffic.flush(), traffic.flush())
    assert store.counts[requests("v1")] == expected


async def test_a_lost_connection_during_the_commit_has_an_unknown_outcome(database: str) -> None:
    async with open_rollout_row(database, 5) as row:

        def lose(connection: Any) -> None:
            raise OperationalError("COMMIT", None, ConnectionResetError())

        event.listen(row._engine.sync_engine, "commit", lose)
        with refused(UnavailableError, reason=OUTCOME_UNKNOWN):
            await row.add_traffic({requests("v1"): 1})
    async with open_rollout_row("postgresql+asyncpg://nobody@127.0.0.1:1/none", 5) as row:
        with refused(UnavailableError, reason=STORE_UNAVAILABLE):
            await row.add_traffic({requests("v1"): 1})


@pytest.mark.parametrize(
    ("error", "errors"),
    [
        (UnavailableError("", reason="MODEL_SERVER_LOST"), 1),
        (ResourceExhaustedError("", reason="MODEL_QUEUE_FULL"), 1),
        (InvalidArgumentError("", field="messages", limit="1"), 0),
    ],
)
async def test_failures_of_the_model_server_count_as_errors(
    error: ServiceError, errors: int
) -> None:
    store = FailingStore("", adds=True)
    store.failing = False
    traffic = TrafficCounter(store, lambda: WATCH_US)
    traffic.begin(V1).failed(error)
    traffic.begin(Assignment("v1", Arm.PINNED, 1.0)).finished(0.1, Usage(3, 4))
    await traffic.flush()
    assert sum(n for key, n in store.counts.items() if key.kind is CountKind.ERRORS) == 2 * errors
    assert {key.since_us for key in store.counts} <= {ALL_TIME, WATCH_US}
    assert store.counts.get(requests("v1"), 0) == errors


async def counts_of(stubs: Stubs, *versions: str) -> list[Any]:
    request = generator_pb2.GetVersionTrafficRequest(versions=versions)
    return list((await stubs.rollout.GetVersionTraffic(request, timeout=5)).versions)


@asynccontextmanager
async def serving_v1(tmp_path: Path, predictor: FakePredictor) -> AsyncIterator[Stubs]:
    async with (
        predictor_server(predictor) as port,
        generator_service(tmp_path, port) as stubs,
    ):
        await until_ready(stubs, "v1")
        yield stubs


async def test_answers_and_failures_are_returned_and_survive_a_restart(tmp_path: Path) -> None:
    predictor = FakePredictor()
    async with serving_v1(tmp_path, predictor) as stubs:
        await stubs.generate()
        await stubs.generate(pinned_version="v1")
        predictor.refusal = (429, {"error": {}})
        await error_of(stubs.generate())
        predictor.refusal, predictor.silent_after = None, 1
        call = stubs.generator.Generate(ask(), timeout=20)
        async for generated in call:
            if generated.text_delta:
                break
        call.cancel()
        [before] = await counts_of(stubs, "never", "v1")
    async with serving_v1(tmp_path, FakePredictor()) as stubs:
        await stubs.generate()
        [after] = await counts_of(stubs, "v1")
    assert (before.version, before.requests, before.errors) == ("v1", 2, 1)
    assert sum(before.first_text_ms_bins.values()) == 1
    # The fake model server reports 7 tokens of the prompt and 3 of the answer.
    assert dict(before.answer_tokens_bins) == {bin_of(3): 1}
    assert dict(before.total_tokens_bins) == {bin_of(10): 1}
    assert (after.requests, after.errors) == (3, 1)


async def test_counts_of_all_replicas_are_returned(tmp_path: Path, database: str) -> None:
    async with replicas(tmp_path, FakePredictor(), database) as (here, there):
        await asyncio.gather(*(stubs.generate() for stubs in (here, there, there)))
        await counts_of(there, "v1")
        [found] = await counts_of(here, "v1")
    assert found.requests == 3


@pytest.mark.parametrize(
    ("versions", "field"), [([], "versions"), (["v1"] * 11, "versions"), (["V/1"], "versions[0]")]
)
async def test_invalid_versions_are_refused(
    tmp_path: Path, versions: list[str], field: str
) -> None:
    async with serving_v1(tmp_path, FakePredictor()) as stubs:
        request = generator_pb2.GetVersionTrafficRequest(versions=versions)
        error = await error_of(stubs.rollout.GetVersionTraffic(request, timeout=5))
    assert error.field == field


async def test_lost_counts_are_a_metric() -> None:
    name = "thumbwheel_traffic_counts_lost_total"
    before = REGISTRY.get_sample_value(name) or 0.0
    traffic = TrafficCounter(FailingStore(OUTCOME_UNKNOWN, adds=False), lambda: WATCH_US)
    traffic.begin(V1).finished(None, Usage(3, 4))
    await traffic.flush()
    assert REGISTRY.get_sample_value(name) == before + 1
