"""Rules of disagreements: scores, best answers, majorities, and the number of reviews."""

import pytest

from services.review.reviewing.disagreement import (
    BEST_DIFFERS,
    RatingRules,
    disagreement,
    judge,
)
from services.review.reviewing.item import ItemState, Judgement, Opinion, Review
from services.review.reviewing.order import shown_order

RULES = RatingRules(raters=2, further_raters=1, least_difference=2, resolve_own=False)


def opinion(*correctness: int, ranks: tuple[int, ...] = ()) -> Opinion:
    """Return scores of answers that differ in correctness only."""
    return Opinion(tuple((score, 4, 4, 4) for score in correctness), ranks)


def reviews(*opinions: Opinion) -> list[Review]:
    return [
        Review(f"rater-{number}", "", Judgement(one), number) for number, one in enumerate(opinions)
    ]


@pytest.mark.parametrize(
    ("first", "second", "least", "expected"),
    [
        (opinion(3, 3), opinion(3, 4), 2, 0),
        (opinion(3, 3), opinion(3, 5), 2, 2),
        (opinion(1, 3), opinion(5, 5), 2, 4),
        (opinion(3, 3), opinion(3, 5), 3, 0),
        (opinion(0, 1), opinion(5, 1), 2, 0),
        (opinion(3, 3, ranks=(1, 2)), opinion(3, 3, ranks=(2, 1)), 2, BEST_DIFFERS),
        (opinion(3, 5, ranks=(1, 2)), opinion(3, 3, ranks=(2, 1)), 2, BEST_DIFFERS + 2),
        (opinion(3, 3, ranks=(1, 2)), opinion(3, 3, ranks=(1, 1)), 2, 0),
        (opinion(3, 3, ranks=(1, 2)), opinion(3, 3), 2, 0),
        (opinion(3, 3, 3, ranks=(1, 2, 3)), opinion(3, 3, 3, ranks=(1, 3, 2)), 2, 0),
    ],
)
def test_reviews_disagree_by_scores_or_by_the_best_answer(
    first: Opinion, second: Opinion, least: int, expected: int
) -> None:
    assert disagreement(first, second, least) == expected
    assert disagreement(second, first, least) == expected


@pytest.mark.parametrize(
    ("scores", "state", "counted"),
    [
        ((3,), ItemState.OPEN, []),
        ((3, 4), ItemState.COMPLETE, [0, 1]),
        ((1, 4), ItemState.OPEN, []),
        ((1, 4, 5), ItemState.COMPLETE, [1, 2]),
        ((2, 4, 3), ItemState.COMPLETE, [0, 2]),
        ((1, 3, 5), ItemState.DISAGREED, []),
        # A review was erased, so that the item got another one.
        ((1, 3, 5, 5), ItemState.DISAGREED, []),
        ((1, 5, 5, 5), ItemState.COMPLETE, [1, 2, 3]),
    ],
)
def test_item_is_complete_when_a_majority_agrees(
    scores: tuple[int, ...], state: ItemState, counted: list[int]
) -> None:
    given = reviews(*(opinion(score) for score in scores))
    verdict = judge(given, RULES)
    assert (verdict.state, list(verdict.counted)) == (state, [given[number] for number in counted])


def test_verdict_has_the_largest_difference() -> None:
    found = judge(reviews(opinion(1), opinion(3), opinion(5)), RULES)
    assert found.difference == 4


@pytest.mark.parametrize(("raters", "state"), [(1, ItemState.COMPLETE), (3, ItemState.OPEN)])
def test_number_of_raters_is_a_setting(raters: int, state: ItemState) -> None:
    rules = RatingRules(raters, 0, 2, resolve_own=False)
    assert judge(reviews(opinion(3)), rules).state is state


def test_order_is_a_permutation_that_depends_on_item_and_reviewer() -> None:
    orders = [tuple(shown_order(f"item-{n}", "rater", 6)) for n in range(600)]
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(6))}
    assert len({tuple(shown_order("item", f"rater-{n}", 6)) for n in range(100)}) > 50
    # Each answer is first in about 100 of 600 items.
    firsts = [sum(order[0] == place for order in orders) for place in range(6)]
    assert min(firsts) > 60
    assert max(firsts) < 140
