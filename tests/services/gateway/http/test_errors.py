"""HTTP error messages contain the expected value or the limit."""

import pytest

from services.chassis.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
)
from services.gateway.http.errors import error_body


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            InvalidArgumentError("no such model", limit="thumbwheel, small-0"),
            "no such model (expected: thumbwheel, small-0)",
        ),
        (UnauthenticatedError("no key", limit="Bearer tw_…"), "no key (expected: Bearer tw_…)"),
        (
            ResourceExhaustedError("too many turns", limit="4 at once"),
            "too many turns (limit: 4 at once)",
        ),
        (InvalidArgumentError("at most 5 are taken", limit="at most 5"), "at most 5 are taken"),
    ],
)
def test_message_contains_the_expected_value_or_the_limit(
    error: ServiceError, message: str
) -> None:
    assert error_body(error)["error"]["message"] == message
