"""Two generators with one database and one model server.

The replicas share the rollout, assign a user to the same version, and load each version once.
"""

import asyncio
from pathlib import Path

from tests.services.generator.canaries import CANDIDATES_USER, STABLES_USER, error_of, until
from tests.services.generator.predictor import FakePredictor
from tests.services.generator.replicas import USERS, agreed, expected, replicas, versions
from tests.services.generator.service import (
    ask,
    model_directory,
    text_of,
)


async def test_all_replicas_assign_a_user_to_the_same_version_in_every_phase(
    tmp_path: Path, database: str
) -> None:
    directory = model_directory(tmp_path, "v2")
    async with replicas(tmp_path, FakePredictor(), database) as (here, there):
        pair = (here, there)
        assert [await versions(stubs) for stubs in pair] == [["v1"] * len(USERS)] * 2
        await here.start("v2", directory, share=0.2)
        await agreed(pair, expected(0.2))
        await there.start("v2", directory, share=0.5)
        await agreed(pair, expected(0.5))
        assert [await versions(stubs) for stubs in pair for _ in range(2)] == [expected(0.5)] * 4
        await here.roll_back("v2")
        await agreed(pair, ["v1"] * len(USERS))
        await there.start("v2", directory, share=0.5)
        await agreed(pair, expected(0.5))
        await here.promote("v2")
        await agreed(pair, ["v2"] * len(USERS))
    assert len(set(expected(0.2))) == len(set(expected(0.5))) == 2
    assert expected(0.2) != expected(0.5)


async def test_a_canary_started_on_one_replica_is_promoted_on_another(
    tmp_path: Path, database: str
) -> None:
    async with replicas(tmp_path, FakePredictor(), database, poll_seconds=600) as (here, there):
        await here.start("v2", model_directory(tmp_path, "v2"))
        seen = await there.state()
        await there.promote("v2")
        state = await here.state()
    assert seen.candidate.version == "v2", (
        "GetRollout reads the store, regardless of the poll interval"
    )
    assert (state.stable.version, state.HasField("candidate")) == ("v2", False)
    assert [change.kind for change in state.history] == ["promoted", "started"]


async def test_a_canary_started_on_both_replicas_is_loaded_once(
    tmp_path: Path, database: str
) -> None:
    predictor = FakePredictor(load_seconds=0.5)
    directory = model_directory(tmp_path, "v2")
    async with replicas(tmp_path, predictor, database) as pair:
        await asyncio.gather(*(stubs.start("v2", directory) for stubs in pair))
        await agreed(pair, expected(0.5))
    assert predictor.counters.loads == ["v1", "v2"]
    assert "v2" in predictor.counters.joined, "the loads never overlapped, so the test is void"


async def test_one_of_two_concurrent_canaries_is_refused(tmp_path: Path, database: str) -> None:
    directories = [model_directory(tmp_path, version) for version in ("v2", "v3")]
    async with replicas(tmp_path, FakePredictor(load_seconds=0.2), database) as pair:
        starts = [
            stubs.start(path.name, path) for stubs, path in zip(pair, directories, strict=True)
        ]
        ended = await asyncio.gather(*starts, return_exceptions=True)
        states = [await stubs.state() for stubs in pair]
    assert sum(error is None for error in ended) == 1
    winner = directories[ended.index(None)].name
    assert [state.candidate.version for state in states] == [winner, winner]


async def test_a_version_is_unloaded_after_the_answers_of_another_replica_end(
    tmp_path: Path, database: str
) -> None:
    predictor = FakePredictor(script=["word "] * 40, pace_seconds=0.02)
    async with replicas(tmp_path, predictor, database) as (here, there):
        await here.start("v2", model_directory(tmp_path, "v2"))
        running = asyncio.create_task(there.generate(user_key=STABLES_USER))
        await until(lambda: predictor.in_use["v1"])
        await here.promote("v2")
        assert text_of(await running) == "word " * 40
        await until(lambda: predictor.counters.unloads == ["v1"])
    assert "v1" in predictor.counters.refused, "no unload was attempted, so the test is void"


async def test_the_first_replica_stores_the_stable_version(tmp_path: Path, database: str) -> None:
    predictor = FakePredictor()
    async with replicas(tmp_path, predictor, database):
        pass
    other = model_directory(tmp_path, "v9")
    async with replicas(tmp_path, predictor, database, stable_directory=other) as pair:
        states = [await stubs.state() for stubs in pair]
    assert [state.stable.version for state in states] == ["v1", "v1"]


async def test_pinned_versions_and_candidate_users_are_equal_on_all_replicas(
    tmp_path: Path, database: str
) -> None:
    async with replicas(tmp_path, FakePredictor(), database) as (here, there):
        await here.start("v2", model_directory(tmp_path, "v2"))
        await agreed((here, there), expected(0.5))
        for stubs in (here, there):
            assert await stubs.version_for(CANDIDATES_USER) == "v2"
            pinned = await stubs.generate(user_key=CANDIDATES_USER, pinned_version="v1")
            assert pinned[0].selected.model_version == "v1"
        missing = await error_of(
            there.generator.Generate(ask(pinned_version="gone"), timeout=5).read()
        )
    assert missing.field == "pinned_version"


async def test_a_replica_reconciles_as_soon_as_it_reads_a_change(
    tmp_path: Path, database: str
) -> None:
    async with replicas(tmp_path, FakePredictor(), database, reconcile_seconds=600) as (
        here,
        there,
    ):
        await here.start("v2", model_directory(tmp_path, "v2"))
        await agreed((here, there), expected(0.5))
