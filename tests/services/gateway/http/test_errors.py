"""HTTP errors contain the expected value or the limit, and name fields as the client does."""

import json

import pytest

from services.chassis.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
)
from services.contracts.limits import field_error
from services.gateway.http.errors import BodyFieldError, error_body, error_response


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


@pytest.mark.parametrize(
    ("error", "param", "message"),
    [
        (
            field_error("message_ids[1]", "another answer than message_ids[0]"),
            "messageIds[1]",
            "messageIds[1] must be another answer than messageIds[0]",
        ),
        (
            field_error("review.scores[0].answer_id", "each of a, b once"),
            "review.scores[0].answerId",
            "review.scores[0].answerId must be each of a, b once",
        ),
        (field_error("action", "input or regenerate"), "body", "body must be input or regenerate"),
        (BodyFieldError("a_b is not known", field="a_b"), "a_b", "a_b is not known"),
    ],
)
def test_error_of_a_json_body_names_fields_as_json_does_in_all_its_words(
    error: ServiceError, param: str, message: str
) -> None:
    found = json.loads(error_response(error, is_proto_json=True).body)["error"]
    assert (found["param"], found["message"]) == (param, message)
    as_in_grpc = json.loads(error_response(error).body)["error"]
    assert (as_in_grpc["param"], as_in_grpc["message"]) == (error.field, error.text)
