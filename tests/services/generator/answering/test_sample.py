"""A sample is complete or dropped: no missing token, no invalid log-prob."""

import math

import pytest

from services.contracts.chat import Sample
from services.generator.answering.sample import SampleParts


def parts(*chunks: tuple[tuple[int, ...], tuple[float, ...]]) -> SampleParts:
    found = SampleParts()
    for ids, log_probs in chunks:
        found.add(ids, log_probs)
    return found


def test_chunks_join_in_order_and_log_probs_are_at_most_zero() -> None:
    sample = parts(((5, 6), (-0.5, 1e-7)), ((), ()), ((2**32 - 1,), (-30.0,))).joined(3)
    assert sample == Sample((5, 6, 2**32 - 1), (-0.5, 0.0, -30.0))


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
def test_an_incomplete_sample_is_none(found: SampleParts) -> None:
    assert found.joined(2) is None


def test_an_empty_answer_and_one_over_the_token_limit_have_no_sample() -> None:
    assert parts().joined(0) is None
    assert parts((tuple(range(4096)), (-1.0,) * 4096)).joined(4096) is not None
    assert parts((tuple(range(4097)), (-1.0,) * 4097)).joined(4097) is None
