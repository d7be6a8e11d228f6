"""Outbox and relay: content of the events, retries, restarts, and quarantined accounts."""

import asyncio
import hashlib
import hmac
from collections.abc import Callable

import grpc
import pytest
from thumbwheel.feedback.v1 import events_pb2
from thumbwheel.review.v1 import arena_pb2

from services.feedback.events import check_feedback
from services.feedback.wire import feedback_from
from tests.services.review.service import (
    BOB,
    PRINCIPAL_KEY,
    FakeFeedback,
    Home,
    Peers,
    review_service,
)

FIRST, SECOND = arena_pb2.OUTCOME_FIRST, arena_pb2.OUTCOME_SECOND
TIE, BOTH_BAD = arena_pb2.OUTCOME_TIE, arena_pb2.OUTCOME_BOTH_BAD


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("outcome", "ranks"), [(FIRST, [1, 2]), (SECOND, [2, 1]), (TIE, [1, 1]), (BOTH_BAD, [1, 1])]
)
async def test_event_is_the_ranking_of_the_voter(
    sqlite_home: Home, outcome: arena_pb2.Outcome.ValueType, ranks: list[int]
) -> None:
    async with review_service(sqlite_home) as review:
        events = review.peers.feedback.events
        voted = await review.whole_battle(outcome)
        await until(lambda: bool(events))
        messages = [message for _, message in review.peers.session.messages.values()]
    (event,) = events
    principal = hmac.new(PRINCIPAL_KEY.encode(), b"acme/ada", hashlib.sha256).hexdigest()
    assert (event.tenant, event.principal, event.rater) == ("acme", principal, "")
    assert event.accept_time == voted.vote_time
    first = messages[0]
    assert (event.message_id, event.conversation_id) == (first.id, first.conversation_id)
    assert (event.arm, event.model_version) == ("battle", first.model_version)
    assert event.ranking.source == events_pb2.RANKING_SOURCE_ARENA
    found = [
        (one.message_id, one.model_version, one.rank, one.text) for one in event.ranking.answers
    ]
    expected = zip(messages, voted.model_versions, ranks, strict=True)
    assert found == [(one.id, version, rank, "") for one, version, rank in expected]


async def test_event_arrives_at_least_once_despite_failures(home: Home) -> None:
    failing = FakeFeedback(failures=[grpc.StatusCode.INTERNAL, "after"])
    async with review_service(home, Peers(feedback=failing)) as review:
        await review.whole_battle()
        await review.whole_battle(caller=BOB)
        await until(lambda: len({event.event_id for event in failing.events}) == 2)
        await until(lambda: not failing.failures)
    assert len({event.SerializeToString() for event in failing.events}) == 2


async def test_event_that_is_refused_is_sent_again_and_blocks_no_other(home: Home) -> None:
    """A feedback service of an earlier release refuses rankings."""
    refusing = FakeFeedback(failures=[grpc.StatusCode.INVALID_ARGUMENT])
    async with review_service(home, Peers(feedback=refusing)) as review:
        refused = await review.whole_battle()
        await until(lambda: not refusing.failures)
        other = await review.whole_battle()
        await until(lambda: len(refusing.events) == 2)
    times = [event.accept_time for event in refusing.events]
    assert sorted(map(str, times)) == sorted(map(str, [refused.vote_time, other.vote_time]))


async def test_event_waits_for_the_feedback_service_across_a_restart(home: Home) -> None:
    down = FakeFeedback(failures=[grpc.StatusCode.UNAVAILABLE] * 1_000)
    async with review_service(home, Peers(feedback=down)) as review:
        voted = await review.whole_battle()
    assert down.events == []
    async with review_service(home) as restarted:
        await until(lambda: bool(restarted.peers.feedback.events))
    assert restarted.peers.feedback.events[0].accept_time == voted.vote_time


async def test_waiting_events_are_sent_before_the_end_of_the_service(home: Home) -> None:
    """The relay reads the outbox once more after the last call."""
    async with review_service(home, relay_poll_seconds=60) as review:
        await review.whole_battle()
        events = review.peers.feedback.events
    assert len(events) == 1


async def test_feedback_accepts_the_event(sqlite_home: Home) -> None:
    """The check of the real feedback service."""
    async with review_service(sqlite_home) as review:
        await review.whole_battle(TIE)
        await until(lambda: bool(review.peers.feedback.events))
    check_feedback(feedback_from(review.peers.feedback.events[0]))
