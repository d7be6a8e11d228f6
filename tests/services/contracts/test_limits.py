"""Checks that services share: UUIDs and samples."""

import math

import pytest

from services.chassis.errors import InvalidArgumentError
from services.contracts.chat import Sample
from services.contracts.limits import MAX_REPLY_TOKENS, check_sample, check_uuid
from tests.support.errors import refused

UUID = "0190a5b2-7c1e-7000-8000-0123456789ab"


def test_uuid_in_lower_case_is_accepted_and_may_be_optional() -> None:
    check_uuid(UUID, "id")
    check_uuid("", "id", optional=True)


@pytest.mark.parametrize("text", ["", "7", UUID.upper(), UUID + "\n", UUID.replace("-", "")])
def test_malformed_uuid_is_refused(text: str) -> None:
    with refused(InvalidArgumentError, field="id", limit="a UUID, lower case"):
        check_uuid(text, "id")


def test_longest_sample_is_accepted() -> None:
    check_sample(Sample((1,) * MAX_REPLY_TOKENS, (-0.5,) * MAX_REPLY_TOKENS), "sample")


@pytest.mark.parametrize(
    ("sample", "field"),
    [
        (Sample((), ()), "turn.sample.token_ids"),
        (Sample((1,) * 4097, (0.0,) * 4097), "turn.sample.token_ids"),
        (Sample((1, 2), (-1.0,)), "turn.sample.log_probs"),
        (Sample((1,), (0.1,)), "turn.sample.log_probs"),
        (Sample((1,), (-math.inf,)), "turn.sample.log_probs"),
        (Sample((1,), (math.nan,)), "turn.sample.log_probs"),
    ],
)
def test_invalid_sample_is_refused(sample: Sample, field: str) -> None:
    with refused(InvalidArgumentError, field=field):
        check_sample(sample, "turn.sample")
