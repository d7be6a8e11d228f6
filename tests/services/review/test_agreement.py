"""Agreement of reviewers for each scale and for the rankings."""

import math

import pytest

from human_evaluation.agreement import Scale, krippendorff_alpha
from services.review.reviewing.agreement import agreements
from services.review.reviewing.item import SCALES, Opinion
from tests.services.review.service import (
    BOB,
    CARL,
    DORA,
    OTHER_ADA,
    Home,
    drawn_item,
    review_of,
    review_service,
)

NAMES = [*SCALES, "ranking"]


def test_units_are_answers_and_zero_is_no_score() -> None:
    items = [
        [Opinion(((1, 5, 0, 5), (2, 5, 3, 5)), (1, 2)), Opinion(((2, 5, 4, 5), (2, 5, 3, 5)))],
        [Opinion(((4, 5, 2, 5),)), Opinion(((4, 5, 1, 5),))],
        [Opinion(((3, 3, 3, 3),))],
        [
            Opinion(((5, 5, 5, 5), (1, 5, 5, 5)), (2, 1)),
            Opinion(((4, 5, 5, 5), (1, 5, 5, 5)), (1, 2)),
        ],
    ]
    found = agreements(items)
    assert list(found) == NAMES
    assert [found[name].items for name in NAMES] == [5, 5, 4, 5, 2]
    expected = krippendorff_alpha([[1, 2], [2, 2], [4, 4], [5, 4], [1, 1]], Scale.ORDINAL)
    assert found["correctness"] == expected
    assert expected.low <= expected.value <= expected.high
    assert found["ranking"] == krippendorff_alpha([[2, 1], [1, 2]], Scale.ORDINAL)
    # All scores are equal.
    assert math.isnan(found["helpfulness"].value)


@pytest.mark.parametrize("items", [[], [[Opinion(((1, 1, 1, 1),))]]])
def test_agreement_without_two_reviews_is_undefined(items: list[list[Opinion]]) -> None:
    found = agreements(items)
    assert [found[name].items for name in NAMES] == [0] * 5
    assert all(math.isnan(found[name].value) for name in NAMES)


async def test_agreement_of_a_tenant_leaves_out_the_review_after_a_disagreement(
    home: Home,
) -> None:
    scores = {BOB: (1, 3, 5), CARL: (5, 3, 5), DORA: (5,)}
    async with review_service(home) as review:
        empty = await review.agreement(BOB)
        for _ in range(3):
            await review.add_items(drawn_item("one"))
        for caller, given in scores.items():
            for score in given:
                item = await review.next_item(caller)
                await review.submit(caller, item.item_id, review_of(item, score=score))
        found = await review.agreement(BOB)
        other = await review.agreement(OTHER_ADA)
    assert (found.items, found.reviews, found.disagreements) == (3, 7, 0)
    assert [one.scale for one in found.agreements] == NAMES
    expected = krippendorff_alpha([[1, 5], [3, 3], [5, 5]], Scale.ORDINAL)
    for one in found.agreements[:4]:
        assert (one.units, one.alpha, one.low, one.high) == pytest.approx(
            (3, expected.value, expected.low, expected.high)
        )
    for none in (empty, other):
        assert (none.items, none.reviews) == (0, 0)
        assert all(math.isnan(one.alpha) and not one.units for one in none.agreements)
