"""Appeals against blocks: submission, decision by two reviewers, limits and erasure."""

import uuid
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import appeal_pb2, review_pb2

from services.chassis.errors import from_rpc
from tests.services.review.service import (
    ADA,
    BOB,
    CARL,
    DORA,
    OTHER_ADA,
    UNKNOWN_ID,
    Home,
    Review,
    decision,
    drawn_item,
    error_of,
    principal,
    review_of,
    review_service,
)

OPEN = appeal_pb2.APPEAL_STATE_OPEN
UPHELD, REJECTED = appeal_pb2.APPEAL_STATE_UPHELD, appeal_pb2.APPEAL_STATE_REJECTED
INVALID = ("INVALID_ARGUMENT", "INVALID_ARGUMENT")


async def states_of(review: Review, caller: Any = ADA) -> dict[str, int]:
    """Return the states of a user's appeals by reason."""
    return {one.reason: one.state for one in await review.appeals_of(caller)}


async def test_two_reviewers_decide_and_the_user_sees_the_state(home: Home) -> None:
    async with review_service(home, further_raters=0) as review:
        session = review.peers.session
        upheld = session.blocked("how do I kill a process")
        stored = await review.appeal(upheld, "upheld")
        assert (stored.message_id, stored.reason, stored.state) == (upheld, "upheld", OPEN)
        # Reviewers of the tenant judge, never the user who appealed.
        for caller in (ADA, OTHER_ADA):
            assert (await error_of(review.next_item(caller)))[1] == "NO_ITEM"
        item = await review.next_item(BOB)
        assert [one.text for one in item.context] == ["how do I kill a process"]
        assert item.appeal == review_pb2.AppealedBlock(
            category="violence", score=0.75, policy_version="policy-1", reason="upheld"
        )
        await review.decide(BOB, wrong=True)
        assert await states_of(review) == {"upheld": OPEN}
        await review.decide(CARL, wrong=True)
        ended = chat_pb2.FINISH_REASON_OUTPUT_BLOCKED
        await review.appeal(session.blocked("again", finish_reason=ended), "rejected")
        assert (await review.next_item(BOB)).appeal.is_answer
        await review.decide(BOB, wrong=False)
        await review.decide(CARL, wrong=False)
        await review.appeal(session.blocked("disputed"), "disputed")
        await review.decide(BOB, wrong=True)
        item_id = await review.decide(CARL, wrong=False)
        decided = {"upheld": UPHELD, "rejected": REJECTED}
        assert await states_of(review) == decided | {"disputed": OPEN}
        (disputed,) = (await review.disagreements(DORA)).disagreements
        await review.resolve(DORA, item_id, decision(disputed.item, wrong=True))
        assert await states_of(review) == decided | {"disputed": UPHELD}
        assert await states_of(review, OTHER_ADA) == {}
        exported = (await review.exported()).items
        assert [len(one.reviews) for one in exported] == [2, 2, 2]
        assert not review.peers.feedback.events


async def test_an_appeal_is_stored_once(home: Home) -> None:
    async with review_service(home, user_appeals_per_day=1) as review:
        message_id = review.peers.session.blocked("a question")
        first = await review.appeal(message_id, "a reason")
        assert await review.appeal(message_id, "a reason") == first
        other = error_of(review.appeal(message_id, "another reason"))
        assert await other == ("ALREADY_EXISTS", "APPEAL_EXISTS", "reason")
        assert len(await review.appeals_of(ADA)) == 1


async def test_only_the_users_own_blocked_answers_can_be_appealed(home: Home) -> None:
    async with review_service(home) as review:
        session = review.peers.session
        blocked = session.blocked("a question")
        allowed = session.answer(str(uuid.uuid4()), "v1", "an answer")
        for call, expected in (
            (review.appeal("x"), (*INVALID, "message_id")),
            (review.appeal(blocked, "x" * 501), (*INVALID, "reason")),
            (review.appeal(blocked, "\0"), (*INVALID, "reason")),
            (review.appeal(UNKNOWN_ID), ("NOT_FOUND", "NOT_FOUND", "")),
            (review.appeal(blocked, caller=BOB), ("NOT_FOUND", "NOT_FOUND", "")),
            (review.appeal(allowed), ("FAILED_PRECONDITION", "NOT_BLOCKED", "message_id")),
        ):
            assert await error_of(call) == expected
        drawn = drawn_item(rule=review_pb2.DRAW_RULE_APPEAL)
        assert await error_of(review.add_items(drawn)) == (*INVALID, "items[0].rule")


async def test_appeals_take_a_decision_and_other_items_scores(home: Home) -> None:
    async with review_service(home, raters=1) as review:
        await review.appeal(review.peers.session.blocked("a question"))
        item = await review.next_item(BOB)
        scored = decision(item, wrong=True)
        scored.scores[0].safety = 5
        for given, field in (
            (review_of(item, score=0), "review.block_decision"),
            (scored, "review"),
            (review_pb2.Review(block_decision=7), "review.block_decision"),  # type: ignore[arg-type]
        ):
            assert await error_of(review.submit(BOB, item.item_id, given)) == (*INVALID, field)
        # Also where one reviewer judges other items.
        await review.decide(BOB, wrong=True)
        assert await states_of(review) == {"": OPEN}
        await review.decide(CARL, wrong=True)
        assert await states_of(review) == {"": UPHELD}
        await review.add_items(drawn_item("one"))
        item = await review.next_item(BOB)
        decided = review_of(item)
        decided.block_decision = review_pb2.BLOCK_DECISION_RIGHT
        refused = error_of(review.submit(BOB, item.item_id, decided))
        assert await refused == (*INVALID, "review.block_decision")


@pytest.mark.parametrize(
    ("limits", "limit"),
    [
        ({"user_appeals_per_day": 2}, "2 appeals of a user in 24 hours"),
        ({"tenant_appeals_per_day": 3}, "3 appeals of the tenant in 24 hours"),
    ],
)
async def test_appeals_of_user_and_tenant_are_limited(
    sqlite_home: Home, limits: dict[str, int], limit: str
) -> None:
    async with review_service(sqlite_home, **limits) as review:
        session = review.peers.session
        for caller in (ADA, ADA, BOB):
            await review.appeal(session.blocked("a question", caller), caller=caller)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await review.appeal(session.blocked("one more"))
        error = from_rpc(refused.value, "review")
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (error.reason, error.limit) == ("TOO_MANY_APPEALS", limit)
        # Other tenants have limits of their own.
        await review.appeal(session.blocked("a question", OTHER_ADA), caller=OTHER_ADA)


async def test_an_erasure_removes_appeals_and_a_withdrawn_consent_does_not(home: Home) -> None:
    async with review_service(home, erasure_seconds=0.05) as review:
        await review.appeal(review.peers.session.blocked("a question"))
        await review.add_items(drawn_item())
        request = review_pb2.RemoveItemsRequest(principals=[principal(ADA)])
        assert (await review.items.RemoveItems(request, timeout=10)).removed == 1
        assert await states_of(review) == {"": OPEN}
        review.peers.feedback.erase(ADA, 1)
        while await review.appeals_of(ADA):
            pass
        assert (await error_of(review.next_item(BOB)))[1] == "NO_ITEM"
