"""F48: a bad candidate gets its share of the users. Their thumbs cause a rollback everywhere."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

from sequential.figures import VersionFigures
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import (
    Stubs,
    generator_service,
    model_directory,
    text_of,
    until_ready,
)
from training.evaluation.canary import CanaryConfig, Verdict
from training.evaluation.canary_run import CanaryResult, WallClock, serve_canary
from training.remote import RolloutClient

BAD, GOOD = "zyx", "good"
USERS = [f"acme/user {number}" for number in range(40)]
CONFIG = CanaryConfig(
    share=0.5, poll_seconds=0.1, lease_seconds=10, max_seconds=60, min_users=20, steps=()
)
LIKED = {GOOD: 0.8, BAD: 0.1}


class SimulatedUsers:
    """Simulated users of all replicas who rate by the answer's content."""

    def __init__(self, replicas: Sequence[Stubs]) -> None:
        self._replicas = replicas
        self._random = random.Random(48)
        self.thumbs: dict[str, Counter[bool]] = {}
        self.read: Counter[str] = Counter()

    async def live(self) -> None:
        while True:
            await self.ask(self._random.choice(USERS))

    async def ask(self, user: str) -> str:
        events = await self._random.choice(self._replicas).generate(user_key=user)
        text = text_of(events)
        self.read[text] += 1
        liked = self._random.random() < LIKED[text]
        self.thumbs.setdefault(events[0].selected.model_version, Counter())[liked] += 1
        return text

    def version_feedback(
        self, versions: Sequence[str], since: datetime
    ) -> dict[str, VersionFigures]:
        return {
            version: VersionFigures(user_shares={1.0: votes[True], 0.0: votes[False]})
            for version, votes in list(self.thumbs.items())
        }


def trial(
    replicas: Sequence[Stubs], directory: Path, people: SimulatedUsers, record: Path
) -> CanaryResult:
    """Run the loop's own canary against the real service. Blocks."""
    addresses = ",".join(f"127.0.0.1:{stubs.port}" for stubs in replicas)
    rollout, asleep = RolloutClient(f"ipv4:{addresses}"), WallClock(time.sleep)
    try:
        return serve_canary(
            "v2", directory, CONFIG, rollout, people, asleep, record, lambda reading, passed: None
        )
    finally:
        rollout.close()


async def test_thumbs_roll_back_a_bad_candidate_on_every_replica(
    tmp_path: Path, database: str, record_property: Any
) -> None:
    predictor = FakePredictor(script=[GOOD], scripts={"v2": [BAD]})
    directory = model_directory(tmp_path, "v2")
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(predictor_server(predictor))
        services = [generator_service(tmp_path, port, database_url=database) for _ in range(2)]
        replicas = [await stack.enter_async_context(service) for service in services]
        for stubs in replicas:
            await until_ready(stubs, "v1")
        people = SimulatedUsers(replicas)
        living = asyncio.create_task(people.live())
        end = await asyncio.to_thread(trial, replicas, directory, people, tmp_path / "trial")
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        bad_answers = people.read[BAD]
        states = [await stubs.state() for stubs in replicas]  # the response includes the rollback
        after = [await people.ask(user) for user in USERS for _ in range(2)]

    assert bad_answers >= CONFIG.min_users, "hardly anybody met it, so this test has shown nothing"
    assert end.verdict is Verdict.ROLL_BACK
    assert end.last is not None
    assert end.last.verdict is Verdict.ROLL_BACK  # decided by thumbs, not by the time limit
    seconds = (
        datetime.fromisoformat(end.ended) - datetime.fromisoformat(end.started)
    ).total_seconds()
    record_property("fired", bad_answers)
    record_property("rollback_seconds", round(seconds, 1))
    assert seconds <= 60
    assert [(state.stable.version, state.HasField("candidate")) for state in states] == [
        ("v1", False)
    ] * 2
    assert set(after) == {GOOD}
