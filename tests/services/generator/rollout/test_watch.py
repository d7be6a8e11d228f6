"""The watch after a promotion returns to the version before if the promoted version is worse."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2

from sequential.figures import RateSums, VersionFigures
from sequential.rows import RowsConfig, Verdict
from services.chassis.channel import open_channel
from services.chassis.errors import ServiceError, UnavailableError
from services.chassis.server import Registration, serving
from services.chassis.settings import ServiceSettings
from services.contracts.chat import Arm, Usage
from services.generator.peers import FeedbackPeer
from services.generator.rollout.current_rollout import CurrentRollout, StoredRollout
from services.generator.rollout.rollout import (
    Assignment,
    Candidate,
    ChangeKind,
    Deployment,
    Rollout,
    WatchTerms,
)
from services.generator.rollout.traffic import TrafficCounter
from services.generator.rollout.watch import LEASE_POLLS, VersionWatch
from services.generator.store.database import open_rollout_row
from services.generator.store.store import RolloutFile
from tests.services.generator.canaries import until
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.replicas import USERS as REPLICAS_USERS
from tests.services.generator.replicas import agreed, replicas
from tests.services.generator.service import (
    Stubs,
    generator_service,
    generator_settings,
    model_directory,
    operate,
    until_ready,
)

V1 = Deployment("v1", "/models/v1")
POLL_SECONDS = 5.0
LEASE_US = int(LEASE_POLLS * POLL_SECONDS * 1e6)
WATCHED = (
    Rollout(stable=V1)
    .propose(Candidate("v2", "/models/v2", 0.2, 10**12))
    .start("v2", 10**12, 0)
    .promote("v2", "better", 10, WatchTerms(0.05, 10**12))
)
LIKED = VersionFigures(user_shares={1.0: 900, 0.0: 100})
WORSE = {"v1": LIKED, "v2": VersionFigures(user_shares={1.0: 500, 0.0: 500})}
EQUAL = {"v1": LIKED, "v2": LIKED}


class Feedback:
    """Feedback service with fixed counts, or with an error."""

    def __init__(self, counts: Mapping[str, VersionFigures]) -> None:
        self.counts = counts
        self.error: ServiceError | None = None
        self.calls: list[tuple[Sequence[str], int]] = []

    async def version_feedback(
        self, versions: Sequence[str], since_us: int
    ) -> Mapping[str, VersionFigures]:
        self.calls.append((versions, since_us))
        if self.error is not None:
            raise self.error
        return self.counts


class Replica:
    """One replica with a store, in front of a clock that the test sets."""

    def __init__(self, name: str, store: Any, feedback: Feedback, clock: list[int]) -> None:
        self.current = CurrentRollout(store, StoredRollout(WATCHED, 1), lambda: clock[0])
        self.traffic = TrafficCounter(store, self.current.watch_start_us)
        self.watch = VersionWatch(
            self.current, self.traffic, feedback, name, POLL_SECONDS, RowsConfig()
        )

    def answer(self, version: str, times: int, failures: int = 0) -> None:
        for number in range(times):
            generation = self.traffic.begin(Assignment(version, Arm.STABLE, 1.0))
            if number < failures:
                generation.failed(UnavailableError("", reason="MODEL_SERVER_LOST"))
            else:
                generation.finished(0.1, Usage(5, 5))


@pytest.fixture
async def file(tmp_path: Path) -> RolloutFile:
    file = RolloutFile(tmp_path / "rollout.json")
    assert await file.replace(WATCHED, 0)
    return file


async def test_worse_thumbs_return_to_the_version_before_with_a_record(file: RolloutFile) -> None:
    feedback = Feedback(WORSE)
    replica = Replica("a", file, feedback, [20])
    judgement = await replica.watch.look()
    assert judgement is not None and judgement.verdict is Verdict.ROLL_BACK
    assert feedback.calls == [(("v2", "v1"), 10)], "feedback since the promotion"
    rollout = (await file.load()).rollout
    assert (rollout.stable, rollout.retired, rollout.watch) == (V1, ("v2",), None)
    assert rollout.history[0].kind is ChangeKind.WATCH_ROLLED_BACK
    [record] = await file.audit_records(0)
    assert (record["act"], record["actor"], record["object"], record["detail"]) == (
        "promotion rolled back",
        "generator",
        "v2",
        judgement.reason,
    )
    assert REGISTRY.get_sample_value("thumbwheel_rollout_regressed") == 1
    assert REGISTRY.get_sample_value("thumbwheel_rollout_watched") == 0
    assert await replica.watch.look() is None


async def test_equal_versions_stay_until_the_watch_ends(file: RolloutFile) -> None:
    clock = [20]
    replica = Replica("a", file, Feedback(EQUAL), clock)
    replica.answer("v1", 50)
    replica.answer("v2", 950)
    for _ in range(3):
        judgement = await replica.watch.look()
        assert judgement is not None and judgement.verdict is not Verdict.ROLL_BACK
        clock[0] += LEASE_US
    assert REGISTRY.get_sample_value("thumbwheel_rollout_watched") == 1
    clock[0] = 10**13
    await replica.current.refresh()
    assert await replica.watch.look() is None
    rollout = (await file.load()).rollout
    assert (rollout.stable, rollout.retired) == (WATCHED.stable, ("v1",))


async def test_without_feedback_the_traffic_decides_and_one_warning_is_logged(
    file: RolloutFile, caplog: pytest.LogCaptureFixture
) -> None:
    feedback = Feedback(WORSE)
    feedback.error = UnavailableError("", reason="PEER_UNAVAILABLE")
    replica = Replica("a", file, feedback, [20])
    replica.answer("v1", 400)
    replica.answer("v2", 400)
    with caplog.at_level(logging.WARNING, logger="services.generator.rollout.watch"):
        for _ in range(3):
            judgement = await replica.watch.look()
            assert judgement is not None and judgement.verdict is Verdict.WAIT
        assert [record.getMessage() for record in caplog.records] == [
            "watch without feedback, by traffic alone"
        ]
    replica.answer("v2", 400, failures=200)
    judgement = await replica.watch.look()
    assert judgement is not None and judgement.reason.startswith("errors")
    assert (await file.load()).rollout.stable == V1


async def test_generations_before_the_promotion_do_not_count(file: RolloutFile) -> None:
    replica = Replica("a", file, Feedback(EQUAL), [20])
    before = TrafficCounter(file, lambda: None)
    for _ in range(500):
        before.begin(Assignment("v2", Arm.STABLE, 1.0)).failed(UnavailableError("", reason="LOST"))
    await before.flush()
    replica.answer("v1", 400)
    replica.answer("v2", 400)
    judgement = await replica.watch.look()
    assert judgement is not None
    [errors] = [row for row in judgement.rows if row.name == "errors"]
    assert errors.candidate.startswith("0.00% of 400")


async def test_one_replica_owns_the_watch_until_its_lease_ends(database: str) -> None:
    clock = [20]
    async with open_rollout_row(database, 5) as one, open_rollout_row(database, 5) as other:
        await one.replace(WATCHED, 0)
        feedback = Feedback(EQUAL)
        first, second = Replica("a", one, feedback, clock), Replica("b", other, feedback, clock)
        looks = await asyncio.gather(first.watch.look(), second.watch.look())
        assert sum(look is not None for look in looks) == 1
        owner, waiting = (first, second) if looks[0] else (second, first)
        serial = REGISTRY.get_sample_value("thumbwheel_rollout_serial")
        # A renewed lease excludes the other replica for longer than the first one.
        for _ in range(6):
            clock[0] += LEASE_US // 2
            assert await owner.watch.look() is not None
            await waiting.current.refresh()
            assert await waiting.watch.look() is None
        assert REGISTRY.get_sample_value("thumbwheel_rollout_serial") == serial, (
            "the alert RolloutsDiffer compares replicas that are scraped at different times"
        )
        clock[0] += LEASE_US - 1
        assert await waiting.watch.look() is None
        # The owner is killed, and counts of all replicas are in the store.
        clock[0] += 1
        feedback.counts = WORSE
        judgement = await waiting.watch.look()
        assert judgement is not None and judgement.verdict is Verdict.ROLL_BACK
        await owner.current.refresh()
        assert await owner.watch.look() is None
        history = (await one.load()).rollout.history
    assert [change.kind for change in history].count(ChangeKind.WATCH_ROLLED_BACK) == 1


async def test_an_outdated_owner_rolls_nothing_back(database: str) -> None:
    clock = [20]
    async with open_rollout_row(database, 5) as one, open_rollout_row(database, 5) as other:
        await one.replace(WATCHED, 0)
        first = Replica("a", one, Feedback(EQUAL), clock)
        second = Replica("b", other, Feedback(EQUAL), clock)
        assert await first.watch.look() is not None
        taken_over = asyncio.Event()

        class Slow(Feedback):
            """Feedback that answers after the other replica has taken the watch over."""

            async def version_feedback(
                self, versions: Sequence[str], since_us: int
            ) -> Mapping[str, VersionFigures]:
                await taken_over.wait()
                return WORSE

        first.watch._feedback = Slow({})
        late = asyncio.create_task(first.watch.look())
        await asyncio.sleep(0)
        clock[0] += 2 * LEASE_US
        assert await second.watch.look() is not None
        taken_over.set()
        assert await late is not None
        assert (await one.load()).rollout.stable == WATCHED.stable


class FeedbackServicer(feedback_pb2_grpc.FeedbackLogServiceServicer):
    """GetVersionFeedback with counts of one version and a rate of a newer service."""

    async def GetVersionFeedback(self, request: Any, context: Any) -> Any:
        assert request.since.ToMicroseconds() == 10
        rates = [
            feedback_pb2.RateSums(name="refused", users=1, trials=2, events=1),
            feedback_pb2.RateSums(name="newer", users=1),
        ]
        found = feedback_pb2.VersionFeedback(
            model_version="v1",
            users_up=3,
            user_thumbs=[
                feedback_pb2.UserThumbs(up=3, down=1, users=2),
                feedback_pb2.UserThumbs(up=1, down=0, users=1),
                feedback_pb2.UserThumbs(up=1, down=0, users=5, weight=0.4),
                feedback_pb2.UserThumbs(up=0, down=1, users=50, weight=0.0),
            ],
            rates=rates,
        )
        earlier = feedback_pb2.VersionFeedback(model_version="v0", users_up=3, users_down=4)
        return feedback_pb2.GetVersionFeedbackResponse(versions=[found, earlier])


@asynccontextmanager
async def feedback_peer(servicer: Any) -> AsyncIterator[FeedbackPeer]:
    settings = ServiceSettings.model_validate({"port": 0, "metrics_port": 0, "drain_seconds": 0})
    name = "thumbwheel.feedback.v1.FeedbackLogService"
    add = feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server
    async with (
        serving(settings, [Registration(name, add, servicer)]) as port,
        open_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = feedback_pb2_grpc.FeedbackLogServiceStub(channel)
        yield FeedbackPeer(stub.GetVersionFeedback, 5)


async def test_feedback_is_read_over_grpc() -> None:
    async with feedback_peer(FeedbackServicer()) as peer:
        found = await peer.version_feedback(["v1"], 10)
    shares, rates = {0.75: 2, 1.0: 3}, {"refused": RateSums(1, 2, 1)}
    assert found["v1"] == VersionFigures(user_shares=shares, rates=rates)
    # An earlier service gives majorities only, which are not read.
    assert found["v0"] == VersionFigures()


async def test_an_earlier_feedback_service_is_a_service_error() -> None:
    async with feedback_peer(feedback_pb2_grpc.FeedbackLogServiceServicer()) as peer:
        with pytest.raises(ServiceError):
            await peer.version_feedback(["v1"], 10)


USERS = [f"acme/user {number}" for number in range(40)]
WATCH = {"watch_share": 0.5, "watch_poll_seconds": 0.1, "feedback_target": "127.0.0.1:1"}


async def promoted(stubs: Stubs, tmp_path: Path) -> None:
    await stubs.start("v2", model_directory(tmp_path, "v2"))
    await stubs.promote("v2")
    await until_ready(stubs, "v2")


async def asked(*replicas: Stubs) -> None:
    """Ask with all users until the rollout returns to v1; failures are answers of v2."""
    async with asyncio.timeout(30):
        while (await replicas[0].state()).stable.version != "v1":
            await asyncio.gather(
                *(stubs.generate(user_key=user) for user in USERS for stubs in replicas),
                return_exceptions=True,
            )


async def test_a_degraded_version_is_rolled_back_while_both_versions_answer(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor()
    async with (
        predictor_server(predictor) as port,
        generator_service(tmp_path, port, **WATCH) as stubs,
    ):
        await until_ready(stubs, "v1")
        await promoted(stubs, tmp_path)
        state = await stubs.state()
        assert (state.watch.previous.version, state.watch.previous.share) == ("v1", 0.5)
        assert state.watch.previous.state == generator_pb2.VERSION_STATE_READY
        assert state.stable.share == 0.5
        found = {await stubs.version_for(user) for user in USERS}
        assert found == {"v1", "v2"}
        predictor.refused_versions = {"v2"}
        await asked(stubs)
        state = await stubs.state()
        assert not state.HasField("watch")
        assert (state.history[0].kind, state.history[0].version) == ("watch_rolled_back", "v2")
        assert {await stubs.version_for(user) for user in USERS} == {"v1"}
        await until(lambda: predictor.counters.unloads == ["v2"])
    assert predictor.counters.loads == ["v1", "v2"], "v1 stayed loaded"


async def test_a_rollback_reaches_all_replicas(tmp_path: Path, database: str) -> None:
    predictor = FakePredictor()
    async with replicas(tmp_path, predictor, database, **WATCH) as pair:
        await promoted(pair[0], tmp_path)
        await until_ready(pair[1], "v2")
        predictor.refused_versions = {"v2"}
        await asked(*pair)
        await agreed(pair, ["v1"] * len(REPLICAS_USERS))
        assert {await stubs.version_for(user) for stubs in pair for user in USERS} == {"v1"}


async def test_a_start_with_the_watch_switched_off_ends_it(tmp_path: Path) -> None:
    async with predictor_server(FakePredictor()) as port:
        async with generator_service(tmp_path, port, **WATCH) as stubs:
            await until_ready(stubs, "v1")
            await promoted(stubs, tmp_path)
        async with generator_service(tmp_path, port, **WATCH | {"watch_share": 0}) as stubs:
            async with asyncio.timeout(10):
                while (await stubs.state()).HasField("watch"):
                    await asyncio.sleep(0.02)
            state = await stubs.state()
    assert (state.stable.version, state.history[0].reason) == ("v2", "switched off")


async def test_a_watch_survives_a_restart_and_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with predictor_server(FakePredictor()) as port:
        async with generator_service(tmp_path, port, **WATCH) as stubs:
            await until_ready(stubs, "v1")
            await promoted(stubs, tmp_path)
            before = (await stubs.state()).watch
        async with generator_service(tmp_path, port, **WATCH) as stubs:
            await until_ready(stubs, "v2")
            after = (await stubs.state()).watch
        assert await operate(generator_settings(tmp_path, port), "rollout", "--json") == 0
    printed = json.loads(capsys.readouterr().out)["watch"]
    assert (printed["previous"]["version"], printed["share"]) == ("v1", 0.5)
    assert (after.start_time, after.end_time) == (before.start_time, before.end_time)
