"""Votes: revelation, checks of the answers, votes that do not count, and repetition."""

import asyncio
import uuid
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import arena_pb2

from services.chassis.errors import from_rpc
from tests.services.review.service import (
    BOB,
    MODELS,
    UNKNOWN_ID,
    Home,
    Review,
    error_of,
    review_service,
)

INVALID = ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
SECOND = arena_pb2.OUTCOME_SECOND


async def test_vote_reveals_the_models_and_ends_their_use(home: Home) -> None:
    async with review_service(home) as review:
        battle = await review.create()
        versions = [await review.version(name) for name in battle.models]
        ids = await review.answers(battle)
        voted = await review.vote(battle.battle_id, ids, SECOND)
        assert (list(voted.model_versions), voted.outcome) == (versions, SECOND)
        assert voted.set_aside == arena_pb2.SET_ASIDE_UNSPECIFIED
        assert voted.vote_time.ToMicroseconds() > voted.create_time.ToMicroseconds()
        assert await review.get(battle.battle_id) == voted
        for name in battle.models:
            error = await error_of(review.version(name))
            assert error == ("FAILED_PRECONDITION", "BATTLE_HAS_VOTE", "model")


async def test_missing_outcome_names_the_values_of_the_proto(home: Home) -> None:
    async with review_service(home) as review:
        battle = await review.create()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await review.vote(battle.battle_id, await review.answers(battle), outcome=0)
    error = from_rpc(caught.value, "review")
    numbers = arena_pb2.Outcome.DESCRIPTOR.values_by_name
    named = {*numbers} - {"OUTCOME_UNSPECIFIED"}
    assert error.field == "outcome"
    assert set(error.limit.removeprefix("one of ").split(", ")) == named


async def test_same_vote_can_be_sent_again_and_another_is_refused(home: Home) -> None:
    refused = ("ALREADY_EXISTS", "BATTLE_HAS_VOTE", "outcome")
    async with review_service(home) as review:
        battle = await review.create()
        ids = await review.answers(battle)
        voted = await review.vote(battle.battle_id, ids)
        assert await review.vote(battle.battle_id, ids) == voted
        assert await error_of(review.vote(battle.battle_id, ids, SECOND)) == refused
        others = [ids[0], str(uuid.uuid4())]
        assert await error_of(review.vote(battle.battle_id, others)) == refused
        assert await review.get(battle.battle_id) == voted
        await until_events(review, 1)


async def test_one_of_two_concurrent_votes_is_stored(home: Home) -> None:
    async with review_service(home) as review:
        battle = await review.create()
        ids = await review.answers(battle)
        outcomes = (arena_pb2.OUTCOME_FIRST, SECOND, arena_pb2.OUTCOME_TIE)
        calls = [review.vote(battle.battle_id, ids, outcome) for outcome in outcomes]
        done = await asyncio.gather(*calls, return_exceptions=True)
        stored = [one for one in done if isinstance(one, arena_pb2.Battle)]
        assert len(stored) == 1
        assert await review.get(battle.battle_id) == stored[0]
        await until_events(review, 1)


async def test_battle_of_another_user_cannot_be_voted_on(home: Home) -> None:
    async with review_service(home) as review:
        battle = await review.create()
        ids = await review.answers(battle)
        error = await error_of(review.vote(battle.battle_id, ids, caller=BOB))
        assert error == ("NOT_FOUND", "NOT_FOUND", "battle_id")
        own = await review.create(caller=BOB)
        error = await error_of(review.vote(own.battle_id, ids, caller=BOB))
        assert error == ("NOT_FOUND", "NOT_FOUND", "message_ids[0]")
        assert not (await review.get(battle.battle_id)).outcome


@pytest.mark.parametrize(
    ("ids", "field"),
    [
        ([], "message_ids"),
        ([UNKNOWN_ID], "message_ids"),
        ([UNKNOWN_ID] * 3, "message_ids"),
        ([UNKNOWN_ID, UNKNOWN_ID], "message_ids[1]"),
        (["x", UNKNOWN_ID], "message_ids[0]"),
    ],
)
async def test_malformed_ids_are_refused(sqlite_home: Home, ids: list[str], field: str) -> None:
    async with review_service(sqlite_home) as review:
        battle = await review.create()
        assert await error_of(review.vote(battle.battle_id, ids)) == (*INVALID, field)
        assert await error_of(review.vote("x", await review.answers(battle))) == (
            *INVALID,
            "battle_id",
        )


@pytest.mark.parametrize("outcome", [0, 5])
async def test_unknown_outcome_is_refused(sqlite_home: Home, outcome: int) -> None:
    async with review_service(sqlite_home) as review:
        battle = await review.create()
        call = review.vote(battle.battle_id, await review.answers(battle), outcome)
        assert await error_of(call) == (*INVALID, "outcome")


async def test_answers_of_another_battle_are_refused(home: Home) -> None:
    async with review_service(home) as review:
        voted = await review.create()
        ids = await review.answers(voted)
        await review.vote(voted.battle_id, ids)
        versions = [one.model_version for _, one in review.peers.session.messages.values()]
        while True:  # until the models come in the same order
            other = await review.create()
            if [await review.version(name) for name in other.models] == versions:
                break
        error = await error_of(review.vote(other.battle_id, ids))
        assert error == (*INVALID, "message_ids[0]")
        fresh = await review.answers(other)
        assert (await error_of(review.vote(other.battle_id, [fresh[0], ids[1]])))[0:2] == INVALID
        assert (await error_of(review.vote(other.battle_id, fresh[::-1])))[0:2] == INVALID
        assert not (await review.get(other.battle_id)).outcome
        await review.vote(other.battle_id, fresh)


@pytest.mark.parametrize(
    "fields",
    [
        {"arm": "pinned"},
        {"arm": "stable"},
        {"role": chat_pb2.ROLE_USER},
        {"age_seconds": 120.0},
    ],
)
async def test_other_messages_are_refused(sqlite_home: Home, fields: dict[str, Any]) -> None:
    """An answer of an ordinary turn, a message of the user, an answer from before the battle."""
    async with review_service(sqlite_home) as review:
        battle = await review.create()
        ids = await review.answers(battle, **fields)
        error = await error_of(review.vote(battle.battle_id, ids))
        assert error == (*INVALID, "message_ids[0]")


async def test_answers_to_different_messages_are_refused(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        battle = await review.create()
        one, other = await review.answers(battle), await review.answers(battle)
        error = await error_of(review.vote(battle.battle_id, [one[0], other[1]]))
        assert error == (*INVALID, "message_ids[1]")


async def test_vote_before_the_end_of_an_answer_is_refused(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        battle = await review.create()
        ids = await review.answers(battle, finish_reason=chat_pb2.FINISH_REASON_UNSPECIFIED)
        error = await error_of(review.vote(battle.battle_id, ids))
        assert error == ("FAILED_PRECONDITION", "ANSWER_NOT_FINISHED", "message_ids[0]")
        assert await review.version(battle.models[0])


@pytest.mark.parametrize(
    ("texts", "fields", "reason"),
    [
        (("the same", "the  same\n"), {}, arena_pb2.SET_ASIDE_EQUAL_TEXTS),
        (("I am alder-1.", "I am a tree"), {}, arena_pb2.SET_ASIDE_NAMES_ITSELF),
        (("a", "b"), {"finish_reason": 3}, arena_pb2.SET_ASIDE_INCOMPLETE),
        (("a", "b"), {"finish_reason": 5}, arena_pb2.SET_ASIDE_INCOMPLETE),
        (("a", "b"), {"finish_reason": 6}, arena_pb2.SET_ASIDE_INCOMPLETE),
        (("a", "b"), {"finish_reason": 2}, arena_pb2.SET_ASIDE_UNSPECIFIED),
    ],
)
async def test_vote_is_set_aside_with_a_reason_and_sends_no_event(
    sqlite_home: Home, texts: tuple[str, str], fields: dict[str, Any], reason: Any
) -> None:
    async with review_service(sqlite_home) as review:
        battle = await review.create()
        while await review.version(battle.models[0]) != MODELS[0]:
            battle = await review.create()
        ids = await review.answers(battle, texts, **fields)
        voted = await review.vote(battle.battle_id, ids)
        assert voted.set_aside == reason
        assert list(voted.model_versions) == list(MODELS)
        counted = await review.whole_battle()
        is_counted = reason == arena_pb2.SET_ASIDE_UNSPECIFIED
        await until_events(review, 2 if is_counted else 1)
    assert counted.set_aside == arena_pb2.SET_ASIDE_UNSPECIFIED


async def test_blocked_question_without_versions_is_set_aside(sqlite_home: Home) -> None:
    """The guardrail blocks the question before a version is chosen."""
    async with review_service(sqlite_home) as review:
        battle, parent_id = await review.create(), str(uuid.uuid4())
        ids = [
            review.peers.session.answer(
                parent_id, "", "no", arm="", finish_reason=chat_pb2.FINISH_REASON_INPUT_BLOCKED
            )
            for _ in range(2)
        ]
        voted = await review.vote(battle.battle_id, ids, arena_pb2.OUTCOME_BOTH_BAD)
    assert voted.set_aside == arena_pb2.SET_ASIDE_INCOMPLETE


async def test_quick_votes_and_votes_above_the_daily_limit_send_no_event(home: Home) -> None:
    async with review_service(home, votes_per_day=2) as review:
        battles = [await review.create() for _ in range(4)]
        ages = (0.5, 10.0, 10.0, 10.0)
        for battle, age_seconds in zip(battles, ages, strict=True):
            ids = await review.answers(battle, age_seconds=age_seconds)
            assert (await review.vote(battle.battle_id, ids)).model_versions
        await until_events(review, 1)


async def test_calls_without_a_user_are_refused(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        error = await error_of(review.create(caller=()))
    assert error[0] == "UNAUTHENTICATED"


async def until_events(review: Review, count: int) -> None:
    """Wait until the feedback service has this number of events, and check that no more come."""
    async with asyncio.timeout(10):
        while len(review.peers.feedback.events) < count:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.15)
    assert len(review.peers.feedback.events) == count
