"""Conversion of battles, leaderboards, items and reviews between protobuf and the domain."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import appeal_pb2, arena_pb2, review_pb2

from services.contracts.chat import Task
from services.contracts.limits import field_error
from services.contracts.wire import ROLE_NUMBERS, ROLES, TASK_NUMBERS, TASKS, timestamp
from services.review.arena.battle import Battle, Outcome, SetAside, model_names
from services.review.arena.leaderboard import Leaderboard
from services.review.reviewing.agreement import TenantAgreement
from services.review.reviewing.item import (
    SCALES,
    BlockDecision,
    ContextMessage,
    DrawnAnswer,
    DrawRule,
    Item,
    Review,
)
from services.review.reviewing.items import ReviewedItem
from services.review.reviewing.judgement import GivenReview
from services.review.reviewing.order import ANSWER_IDS, drawn_order

OUTCOMES: Mapping[arena_pb2.Outcome.ValueType, Outcome] = {
    arena_pb2.Outcome.Value(f"OUTCOME_{outcome.name}"): outcome for outcome in Outcome
}
OUTCOME_NUMBERS = {outcome: number for number, outcome in OUTCOMES.items()}
SET_ASIDE_NUMBERS = {
    reason: arena_pb2.SetAside.Value(f"SET_ASIDE_{reason.name}") for reason in SetAside
}
DRAW_RULES: Mapping[review_pb2.DrawRule.ValueType, DrawRule] = {
    review_pb2.DrawRule.Value(f"DRAW_RULE_{rule.name}"): rule for rule in DrawRule
}
# Rules of AddItems. Appeals come from users only, within their limits.
ADDED_RULES = [rule for rule in DrawRule if rule is not DrawRule.APPEAL]
DRAW_RULE_NUMBERS = {rule: number for number, rule in DRAW_RULES.items()}
BLOCK_DECISIONS: Mapping[review_pb2.BlockDecision.ValueType, BlockDecision] = {
    review_pb2.BlockDecision.Value(f"BLOCK_DECISION_{decision.name}"): decision
    for decision in BlockDecision
}
BLOCK_DECISION_NUMBERS = {decision: number for number, decision in BLOCK_DECISIONS.items()}
APPEAL_STATE_NUMBERS = {
    None: appeal_pb2.APPEAL_STATE_OPEN,
    BlockDecision.WRONG: appeal_pb2.APPEAL_STATE_UPHELD,
    BlockDecision.RIGHT: appeal_pb2.APPEAL_STATE_REJECTED,
}


def battle_proto(battle: Battle) -> arena_pb2.Battle:
    """Convert a battle for its user; versions are included after the vote only."""
    found = arena_pb2.Battle(
        battle_id=battle.battle_id,
        models=model_names(battle.battle_id),
        create_time=timestamp(battle.create_us),
    )
    if vote := battle.vote:
        found.outcome = OUTCOME_NUMBERS[vote.outcome]
        found.model_versions.extend(battle.models)
        if vote.set_aside:
            found.set_aside = SET_ASIDE_NUMBERS[vote.set_aside]
        found.vote_time.FromMicroseconds(vote.vote_us)
    return found


def leaderboard_proto(board: Leaderboard) -> arena_pb2.GetLeaderboardResponse:
    """Convert a leaderboard with its counts."""
    found = arena_pb2.GetLeaderboardResponse(
        entries=[
            arena_pb2.LeaderboardEntry(
                rank=entry.rank,
                model=entry.model,
                developer=entry.label.developer,
                licence=entry.label.licence,
                rating=entry.rating,
                rating_low=entry.rating_low,
                rating_high=entry.rating_high,
                votes=entry.votes,
                votes_to_separate=entry.votes_to_separate,
            )
            for entry in board.entries
        ],
        pairs=[
            arena_pb2.PairResult(
                first=first,
                second=second,
                first_wins=count.first_wins,
                second_wins=count.second_wins,
                ties=count.ties,
            )
            for (first, second), count in board.pairs.items()
        ],
        votes=board.votes,
        set_aside=board.set_aside,
        quarantined=board.quarantined,
        latest_vote_time=timestamp(board.latest_vote_us or None),
        topics=[
            arena_pb2.TopicVotes(topic=topic, votes=votes) for topic, votes in board.topics.items()
        ],
    )
    if board.fragility:
        found.fragility.votes = board.fragility.removed
        found.fragility.new_leader = board.fragility.new_leader
    return found


def item_from(message: review_pb2.DrawnItem, field: str) -> Item:
    """Convert an item from protobuf.

    Raises:
        InvalidArgumentError: roles or rule are unknown, or the numbers of answers, ids and versions
            differ.
    """
    shown = message.item
    if DRAW_RULES.get(message.rule) not in ADDED_RULES:
        raise field_error(f"{field}.rule", f"one of {', '.join(ADDED_RULES)}")
    for number, one in enumerate(shown.context):
        if one.role not in ROLES:
            raise field_error(
                f"{field}.item.context[{number}].role", f"one of {', '.join(ROLES.values())}"
            )
    for name in ("model_versions", "message_ids"):
        values = getattr(message, name)
        if len(values) != len(shown.answers):
            raise field_error(
                f"{field}.{name}", f"{len(shown.answers)}, as many as answers", str(len(values))
            )
    ids = [answer.answer_id for answer in shown.answers]
    if ids != list(ANSWER_IDS[: len(ids)]):
        raise field_error(f"{field}.item.answers", f"1 to {len(ANSWER_IDS)} with the ids a, b, …")
    answers = zip(shown.answers, message.model_versions, message.message_ids, strict=True)
    return Item(
        item_id=shown.item_id,
        tenant=message.tenant,
        principal=message.principal,
        conversation_id=message.conversation_id,
        message_id=message.message_id,
        arm=message.arm,
        rule=DRAW_RULES[message.rule],
        task=TASKS.get(shown.task, Task.UNSPECIFIED),
        context=tuple(ContextMessage(ROLES[one.role], one.text) for one in shown.context),
        answers=tuple(
            DrawnAnswer(answer.text, version, message_id) for answer, version, message_id in answers
        ),
    )


def item_proto(item: Item, order: Sequence[int]) -> review_pb2.ReviewItem:
    """Convert an item without its versions.

    Args:
        item: to show.
        order: places of the answers in the order in which they are shown.
    """
    shown = review_pb2.ReviewItem(
        item_id=item.item_id,
        context=[
            chat_pb2.HistoryMessage(role=ROLE_NUMBERS[one.role], text=one.text)
            for one in item.context
        ],
        answers=[
            review_pb2.ReviewAnswer(answer_id=answer_id, text=item.answers[place].text)
            for answer_id, place in zip(ANSWER_IDS, order, strict=False)
        ],
        task=TASK_NUMBERS[item.task],
    )
    if item.appeal:
        shown.appeal.CopyFrom(review_pb2.AppealedBlock(**asdict(item.appeal)))
    return shown


def appeal_proto(reviewed: ReviewedItem) -> appeal_pb2.Appeal:
    """Convert an appeal for its user."""
    appeal = reviewed.item.appeal
    return appeal_pb2.Appeal(
        message_id=reviewed.item.message_id,
        reason=appeal.reason if appeal else "",
        state=APPEAL_STATE_NUMBERS[reviewed.block_decision],
        create_time=timestamp(reviewed.create_us),
    )


def given_review(
    request: review_pb2.SubmitReviewRequest | review_pb2.ResolveDisagreementRequest,
) -> GivenReview:
    """Convert the review of a request.

    Raises:
        InvalidArgumentError: the request has none, or its decision is unknown.
    """
    if not request.HasField("review"):
        raise field_error("review", "set")
    review = request.review
    if review.block_decision and review.block_decision not in BLOCK_DECISIONS:
        raise field_error("review.block_decision", f"one of {', '.join(BlockDecision)}")
    return GivenReview(
        scores=[
            (scores.answer_id, [getattr(scores, scale) for scale in SCALES])
            for scores in review.scores
        ],
        ranks=[(rank.answer_id, rank.rank) for rank in review.ranks],
        written_answer=review.written_answer,
        comment=review.comment,
        block=BLOCK_DECISIONS.get(review.block_decision),
    )


def review_proto(review: Review, order: Sequence[int], principal: str = "") -> review_pb2.Review:
    """Convert a review.

    Args:
        review: stored review.
        order: places of the answers in the order in which they are shown.
        principal: of the caller, whose own review is marked.
    """
    judgement = review.judgement
    shown = list(zip(ANSWER_IDS, order, strict=False))
    found = review_pb2.Review(
        written_answer=judgement.written_answer,
        comment=judgement.comment,
        submit_time=timestamp(review.submit_us),
        own=review.rater == principal,
    )
    if judgement.opinion.block:
        found.block_decision = BLOCK_DECISION_NUMBERS[judgement.opinion.block]
    for answer_id, place in shown:
        scores = dict(zip(SCALES, judgement.opinion.scores[place], strict=True))
        found.scores.add(answer_id=answer_id, **scores)
        if judgement.opinion.ranks:
            found.ranks.add(answer_id=answer_id, rank=judgement.opinion.ranks[place])
    return found


def reviewed_item_proto(reviewed: ReviewedItem) -> review_pb2.ReviewedItem:
    """Convert an item with its reviews for exports, in the order of the draw."""
    item = reviewed.item
    order = drawn_order(len(item.answers))
    found = review_pb2.ReviewedItem(
        item=review_pb2.DrawnItem(
            item=item_proto(item, order),
            tenant=item.tenant,
            principal=item.principal,
            conversation_id=item.conversation_id,
            message_id=item.message_id,
            model_versions=[answer.model_version for answer in item.answers],
            message_ids=[answer.message_id for answer in item.answers],
            arm=item.arm,
            rule=DRAW_RULE_NUMBERS[item.rule],
        ),
        reviews=[review_proto(review, order) for review in reviewed.reviews],
        raters=[review.rater for review in reviewed.reviews],
        complete=reviewed.is_complete,
    )
    if reviewed.resolution:
        found.resolution.CopyFrom(review_proto(reviewed.resolution, order))
        found.resolver = reviewed.resolution.rater
    return found


def agreement_proto(found: TenantAgreement) -> review_pb2.GetAgreementResponse:
    """Convert the agreement of a tenant."""
    return review_pb2.GetAgreementResponse(
        items=found.counts.items,
        reviews=found.counts.reviews,
        disagreements=found.counts.disagreements,
        agreements=[
            review_pb2.Agreement(
                scale=scale, alpha=one.value, low=one.low, high=one.high, units=one.items
            )
            for scale, one in found.by_scale.items()
        ],
    )
