"""Events of reviews, from the review service to pairs of the training sets."""

from dataclasses import replace

from services.contracts.chat import Role, Task
from services.feedback.events import check_feedback
from services.feedback.wire import feedback_from
from services.review.reviewing.events import review_events
from services.review.reviewing.item import (
    ContextMessage,
    DrawnAnswer,
    DrawRule,
    Item,
    Judgement,
    Opinion,
    Review,
)
from tests.services.review.training_events import read_by_training, turn
from tests.training.feedback_log import principal_of, uid
from training.data.feedback.judgements import judge
from training.data.feedback.pairs import LabelNoise, group_by_prompt, make_pairs
from training.data.feedback.sources import Source

IDS = (uid("first"), uid("second"))
ITEM = Item(
    item_id=uid("item"),
    tenant="acme",
    principal=principal_of("ann"),
    conversation_id=uid("conversation"),
    message_id=IDS[1],
    arm="stable",
    rule=DrawRule.RANDOM,
    task=Task.CHAT,
    context=(ContextMessage(Role.USER, "hi"),),
    answers=(
        DrawnAnswer("never seen", "nano-0", ""),
        DrawnAnswer("first", "nano-1", IDS[0]),
        DrawnAnswer("second", "nano-2", IDS[1]),
    ),
)
SCORES = ((4, 4, 4, 4),) * 3
REVIEW = Review(
    principal_of("rob"),
    "rob",
    Judgement(Opinion(SCORES, (2, 1, 3)), "better", "a remark"),
    5_000_000,
)


def test_feedback_accepts_the_ranking_and_the_written_answer() -> None:
    ranking, correction = (feedback_from(event) for event in review_events(ITEM, REVIEW))
    for event in (ranking, correction):
        check_feedback(event)
        assert (event.principal, event.rater) == (ITEM.principal, REVIEW.rater)
        assert (event.message_id, event.model_version) == (IDS[1], "nano-2")
        assert event.accept_us == REVIEW.submit_us
        assert "a remark" not in repr(event)
    assert ranking.event_id != correction.event_id


def test_ranking_and_written_answer_become_pairs_of_the_reviewer() -> None:
    stored = replace(ITEM, answers=ITEM.answers[1:])
    opinion = Opinion(SCORES[1:], (2, 1))
    review = replace(REVIEW, judgement=Judgement(opinion, "better"))
    turns = [
        turn(ITEM.principal, answer.message_id, answer.model_version, answer.text, "stable")
        for answer in stored.answers
    ]
    feedback = [read_by_training(event) for event in review_events(stored, review)]
    given, dropped = judge(feedback, turns, 10)
    assert dropped == []
    assert {one.giver for one in given} == {REVIEW.rater}
    pairs, _ = make_pairs(group_by_prompt(given), LabelNoise(None, 0, 0), 10, 0)
    found = {(pair.chosen, pair.rejected, pair.source) for pair in pairs}
    assert found == {
        ("second", "first", Source.RANKING),
        ("better", "second", Source.WRITTEN),
    }


def test_events_are_the_same_for_each_call_and_differ_by_review() -> None:
    def ids(review: Review) -> list[str]:
        return [event.event_id for event in review_events(ITEM, review)]

    assert ids(REVIEW) == ids(REVIEW)
    others = (
        replace(REVIEW, rater=principal_of("other")),
        # The item was removed, drawn and judged again.
        replace(REVIEW, submit_us=REVIEW.submit_us + 1),
    )
    for other in others:
        assert not set(ids(REVIEW)) & set(ids(other))


def test_review_without_ranking_and_written_answer_has_no_event() -> None:
    judgement = Judgement(Opinion(SCORES), written_answer=" \n", comment="a remark")
    assert list(review_events(ITEM, replace(REVIEW, judgement=judgement))) == []
