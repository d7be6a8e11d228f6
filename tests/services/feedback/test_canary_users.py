"""Canary from the RPC of the feedback service to the decision: each user counts once.

The thumbs of one user do not decide, and answers from before the canary do not count.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from sequential.figures import Approval, VersionFigures
from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from tests.services.feedback.clients import Client, running
from tests.services.feedback.samples import KEY, answer_id, thumb, turn
from training.evaluation.canary import CanaryConfig, Reading, Verdict, evaluate
from training.remote import FeedbackLog

SINCE = datetime(2026, 11, 28, tzinfo=UTC)
EVE = Caller("acme", "eve")
ARMS = {"v1": "stable", "v2": "candidate"}
Vote = tuple[Caller, events_pb2.FeedbackEvent]


class Canary:
    """Canary of v2 against v1 since SINCE, at a running feedback service."""

    def __init__(self, client: Client) -> None:
        self._client, self._number, self._turns = client, 0, 0

    def vote(self, caller: Caller, version: str, up: bool, begun: datetime = SINCE) -> Vote:
        """Return a thumb on another answer of the version, begun at this time."""
        self._number += 1
        event = thumb(f"{self._number}", up, "m", caller, int(SINCE.timestamp()) + 60)
        event.model_version, event.arm = version, ARMS[version]
        event.message_id = answer_id(int(begun.timestamp() * 1_000_000), self._number)
        return caller, event

    def votes(self, version: str, up: int, down: int) -> list[Vote]:
        """Return one thumb of each of `up + down` users."""
        users = [Caller("acme", f"{version} {number}") for number in range(up + down)]
        return [self.vote(user, version, number < up) for number, user in enumerate(users)]

    def of_one(self, version: str, thumbs: int, up: bool) -> list[Vote]:
        return [self.vote(EVE, version, up) for _ in range(thumbs)]

    async def answered(self, callers: Sequence[Caller], begun: datetime) -> None:
        """Let each user have a finished answer, begun at this time, in the ledger."""
        turns = []
        for caller in callers:
            self._number += 1
            event = turn(message=f"{self._number}")
            event.message_id = answer_id(int(begun.timestamp() * 1_000_000), self._number)
            event.principal, event.model_version = principal_of(KEY, caller), "v1"
            event.finish_time.FromDatetime(begun)
            turns.append(event)
        self._turns += len(turns)
        await self._client.append(*turns)
        await self._client.rows(feedback_pb2.STREAM_TURNS, self._turns)

    async def send(self, *votes: Vote) -> None:
        await asyncio.gather(*(self._client.record(event, caller) for caller, event in votes))

    async def read(self, min_users: int = 20) -> Reading:
        def read() -> dict[str, VersionFigures]:
            with closing(FeedbackLog(self._client.address)) as log:
                return log.version_feedback(("v2", "v1"), SINCE)

        found = await asyncio.to_thread(read)
        return evaluate(found["v2"], found["v1"], CanaryConfig(min_users=min_users))

    async def majorities(self, version: str) -> tuple[int, int]:
        request = feedback_pb2.CountThumbsRequest(users=True)
        request.since.FromDatetime(SINCE)
        counts = (await self._client.call("CountThumbs", request, None)).counts
        (count,) = (count for count in counts if count.model_version == version)
        return count.users_up, count.users_down


@pytest.fixture
async def canary(tmp_path: Path, flush_seconds: float) -> AsyncIterator[Canary]:
    async with running(tmp_path, flush_seconds=flush_seconds) as client:
        yield Canary(client)


@pytest.fixture
def flush_seconds() -> float:
    """Let some thumbs be in the spool and others in the ledger."""
    return 0.05


@pytest.mark.parametrize(("users", "up"), [(30, True), (30, False), (120, False)])
async def test_one_user_with_fifty_thumbs_changes_nothing(
    canary: Canary, users: int, up: bool
) -> None:
    """Finding S-09: one user's thumbs decided the canary."""
    half = users // 2
    await canary.send(*canary.votes("v1", half, half), *canary.votes("v2", half, half))
    honest = await canary.read()
    await canary.send(*canary.of_one("v2", 50, up))
    attacked = await canary.read()
    assert honest.verdict is attacked.verdict is Verdict.WAIT
    assert attacked.incumbent == honest.incumbent == Approval(users, 0.5)
    assert attacked.candidate == Approval(users + 1, (half + up) / (users + 1))


async def test_one_user_does_not_promote_a_candidate_liked_half_as_much(canary: Canary) -> None:
    """Finding S-09: 125 thumbs of one key promoted a candidate with half the approval."""
    await canary.send(*canary.votes("v1", 18, 12), *canary.votes("v2", 9, 21))
    await canary.send(*canary.of_one("v2", 125, True))
    reading = await canary.read()
    assert reading.verdict is not Verdict.PROMOTE
    assert reading.candidate == Approval(31, 10 / 31)


@pytest.mark.parametrize("flush_seconds", [60.0, 0.001], ids=["in the spool", "in the ledger"])
async def test_each_user_counts_by_the_share_of_thumbs_up(canary: Canary) -> None:
    """Finding S-09: users counted as often as they rated."""
    ada, bob, cleo = (Caller("acme", name) for name in ("ada", "bob", "cleo"))
    sides = [(ada, True), (ada, True), (ada, False), (bob, True), (bob, False), (cleo, False)]
    await canary.send(*(canary.vote(user, "v2", up) for user, up in sides))
    assert (await canary.read()).candidate == Approval(3, pytest.approx((2 / 3 + 1 / 2) / 3))
    # Loops of earlier releases count by majority, and a tie for neither side.
    assert await canary.majorities("v2") == (1, 1)


async def test_answers_from_before_the_canary_do_not_count(canary: Canary) -> None:
    """Finding S-09: old answers of the incumbent could be rated during the canary."""
    before = SINCE - timedelta(milliseconds=1)
    await canary.send(canary.vote(EVE, "v1", False, before), *canary.votes("v1", 1, 0))
    assert (await canary.read()).incumbent == Approval(1, 1.0)


async def test_a_decision_by_few_users_says_so(canary: Canary) -> None:
    """Finding S-09: nothing showed the number of users behind a decision."""
    await canary.send(*canary.votes("v1", 0, 15), *canary.votes("v2", 15, 0))
    assert (await canary.read()).verdict is Verdict.WAIT
    few = await canary.read(min_users=1)
    assert few.verdict is Verdict.PROMOTE
    assert "fewer than 20 users" in few.reason


async def test_new_accounts_decide_nothing_in_an_old_installation(canary: Canary) -> None:
    """200 accounts that came with the canary promoted a worse version in 19 % of the canaries."""
    votes = [*canary.votes("v1", 36, 24), *canary.votes("v2", 36, 24)]
    await canary.answered([caller for caller, _ in votes], SINCE - timedelta(days=20))
    await canary.send(*votes)
    honest = await canary.read()
    assert honest.candidate == honest.incumbent == Approval(60, 0.6)
    accounts = [Caller("acme", f"brigade {number}") for number in range(200)]
    await canary.answered(accounts, SINCE + timedelta(seconds=1))
    await canary.send(
        *(canary.vote(one, "v2" if n % 2 else "v1", bool(n % 2)) for n, one in enumerate(accounts))
    )
    attacked = await canary.read()
    assert attacked.verdict is Verdict.WAIT
    assert (attacked.candidate, attacked.incumbent) == (honest.candidate, honest.incumbent)


async def test_new_accounts_of_a_new_installation_decide(canary: Canary) -> None:
    votes = [*canary.votes("v1", 20, 40), *canary.votes("v2", 50, 10)]
    await canary.answered([caller for caller, _ in votes], SINCE - timedelta(seconds=30))
    await canary.send(*votes)
    assert (await canary.read()).verdict is Verdict.PROMOTE
