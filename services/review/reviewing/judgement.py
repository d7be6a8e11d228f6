"""Checks of a submitted review, and its scores and ranks in the order of the draw."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from services.contracts.limits import (
    MAX_COMMENT_CHARACTERS,
    MAX_CORRECTION_CHARACTERS,
    check_text,
    field_error,
)
from services.review.reviewing.item import MAX_SCORE, SCALES, BlockDecision, Judgement, Opinion
from services.review.reviewing.order import ANSWER_IDS

ValueT = TypeVar("ValueT")


@dataclass(frozen=True)
class GivenReview:
    """Review as submitted, with the answer ids that the reviewer sees.

    Args:
        scores: answer id, and scores on SCALES.
        ranks: answer id and rank.
        written_answer: better answer by the reviewer, or empty.
        comment: remark, or empty.
        block: decision on an appeal, or None.
    """

    scores: Sequence[tuple[str, Sequence[int]]]
    ranks: Sequence[tuple[str, int]]
    written_answer: str
    comment: str
    block: BlockDecision | None = None


def judgement_of(
    given: GivenReview, order: Sequence[int], field: str = "review", *, is_appeal: bool = False
) -> Judgement:
    """Return the judgement in the order of the draw.

    Args:
        given: review to check.
        order: places of the item's answers in the order in which the reviewer sees them.
        field: name of the review in errors.
        is_appeal: the item is an appeal, which is decided and not scored.

    Raises:
        InvalidArgumentError: a value exceeds its limit, an answer id is unknown, missing or used
            twice, or the review is empty.
    """
    check_text(given.written_answer, f"{field}.written_answer", MAX_CORRECTION_CHARACTERS)
    check_text(given.comment, f"{field}.comment", MAX_COMMENT_CHARACTERS)
    places = dict(zip(ANSWER_IDS, order, strict=False))
    for number, (_, of_answer) in enumerate(given.scores):
        for scale, score in zip(SCALES, of_answer, strict=True):
            if score > MAX_SCORE:
                raise field_error(
                    f"{field}.scores[{number}].{scale}",
                    f"1 to {MAX_SCORE}, or 0 if it does not apply",
                    str(score),
                )
    scores = _by_place(given.scores, places, f"{field}.scores")
    ranks: tuple[int, ...] = ()
    if given.ranks:
        if len(order) < 2:
            raise field_error(f"{field}.ranks", "empty for an item with one answer")
        ranks = _by_place(given.ranks, places, f"{field}.ranks")
        if set(ranks) != set(range(1, len(set(ranks)) + 1)):
            raise field_error(f"{field}.ranks", "1, 2, 3 … without gaps; equal ranks are ties")
    opinion = Opinion(tuple(tuple(each) for each in scores), ranks, given.block)
    is_scored = any(score for each in opinion.scores for score in each)
    is_judged = bool(is_scored or ranks or given.written_answer.strip())
    if (given.block is not None) != is_appeal:
        limit = "right or wrong" if is_appeal else "unspecified, since the item is no appeal"
        raise field_error(f"{field}.block_decision", limit)
    if is_judged == is_appeal:
        what = "without" if is_appeal else "with"
        raise field_error(field, f"a review {what} a score, ranks or a written answer")
    return Judgement(opinion, given.written_answer, given.comment)


def _by_place(
    given: Sequence[tuple[str, ValueT]], places: dict[str, int], field: str
) -> tuple[ValueT, ...]:
    """Return one value for each answer, in the order of the draw."""
    found: dict[int, ValueT] = {}
    for number, (answer_id, value) in enumerate(given):
        place = places.get(answer_id)
        if place is None or place in found:
            known = ", ".join(f'"{name}"' for name in places)
            raise field_error(f"{field}[{number}].answer_id", f"each of {known} once")
        found[place] = value
    if len(found) < len(places):
        raise field_error(field, f"{len(places)}, one for each answer", str(len(found)))
    return tuple(found[place] for place in sorted(found))
