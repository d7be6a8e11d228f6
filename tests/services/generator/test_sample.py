"""A sample is whole or none: no hole, no log-prob that is none."""

import math

import pytest

from services.generator.sample import Sample, SampleParts


def parts(*told: tuple[tuple[int, ...], tuple[float, ...]]) -> SampleParts:
    found = SampleParts()
    for ids, log_probs in told:
        found.add(ids, log_probs)
    return found


def test_pieces_join_in_order_and_rounding_never_makes_a_token_more_than_certain() -> None:
    whole = parts(((5, 6), (-0.5, 1e-7)), ((), ()), ((2**32 - 1,), (-30.0,))).whole(3)
    assert whole == Sample((5, 6, 2**32 - 1), (-0.5, 0.0, -30.0))


@pytest.mark.parametrize(
    "found",
    [
        parts(),
        parts(((5,), (-0.5,))),
        parts(((5, 6), (-0.5,))),
        parts(((5,), (-0.5, -0.5))),
        parts(((5, 6), (-0.5, -0.5)), ((7,), (-0.5,))),
        parts(((5, 6), (-0.5, math.nan))),
        parts(((5, 6), (-0.5, -math.inf))),
        parts(((5, 6), (-0.5, -9999.0))),
        parts(((5, 6), (-0.5, 0.5))),
        parts(((5, -6), (-0.5, -0.5))),
        parts(((5, 2**32), (-0.5, -0.5))),
    ],
)
def test_what_is_not_whole_is_none(found: SampleParts) -> None:
    assert found.whole(2) is None


def test_no_answer_has_no_sample_and_one_over_the_limit_of_tokens_neither() -> None:
    assert parts().whole(0) is None
    assert parts((tuple(range(4096)), (-1.0,) * 4096)).whole(4096) is not None
    assert parts((tuple(range(4097)), (-1.0,) * 4097)).whole(4097) is None
