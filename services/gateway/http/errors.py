"""Service errors as HTTP responses in OpenAI's format, for the exceptions of its clients."""

import math
import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from services.chassis.errors import (
    AlreadyExistsError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
)
from services.gateway.quotas.quota import WINDOWS
from services.gateway.quotas.quotas import QuotaError, QuotaLevels


class BodyTooLargeError(InvalidArgumentError):
    """The body exceeds the size limit."""

    reason = "BODY_TOO_LARGE"


class BodyTooSlowError(InvalidArgumentError):
    """The body did not arrive in time. The connection is closed after the response."""

    reason = "BODY_TOO_SLOW"


class BodyFieldError(InvalidArgumentError):
    """A field of a JSON body is invalid. The error names the field as the client did."""


class MethodNotAllowedError(InvalidArgumentError):
    """The path exists, but not for this method."""

    reason = "METHOD_NOT_ALLOWED"


# Of SendMessageRequest and SubmitFeedbackRequest.
ONEOFS = frozenset({"action", "value"})
# Looked up along the MRO. A subclass without an entry uses the entry of its parent.
TABLE: Mapping[type[Exception], tuple[int, str]] = {
    BodyTooLargeError: (413, "invalid_request_error"),
    BodyTooSlowError: (408, "invalid_request_error"),
    MethodNotAllowedError: (405, "invalid_request_error"),
    InvalidArgumentError: (400, "invalid_request_error"),
    UnauthenticatedError: (401, "authentication_error"),
    PermissionDeniedError: (403, "permission_error"),
    NotFoundError: (404, "not_found_error"),
    AlreadyExistsError: (409, "conflict_error"),
    FailedPreconditionError: (409, "conflict_error"),
    ResourceExhaustedError: (429, "rate_limit_error"),
    UnavailableError: (503, "unavailable_error"),
    DeadlineExceededError: (504, "timeout_error"),
    ServiceError: (500, "server_error"),
}


def status_and_type(error: ServiceError) -> tuple[int, str]:
    """Return HTTP status and error type of an error."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def error_body(error: ServiceError) -> dict[str, Any]:
    """Return `{"error": {message, type, param, code}}`. The message includes the limit."""
    text = error.text
    if error.limit and error.limit not in text:
        word = (
            "limit"
            if isinstance(error, ResourceExhaustedError | DeadlineExceededError)
            else "expected"
        )
        text = f"{text} ({word}: {error.limit})"
    kind = status_and_type(error)[1]
    return {
        "error": {
            "message": text,
            "type": kind,
            "param": error.field or None,
            "code": error.reason.lower(),
        }
    }


def error_response(error: ServiceError, *, is_proto_json: bool = False) -> Response:
    """Return the complete error response.

    Args:
        error: error of the request.
        is_proto_json: name the field as in protobuf's JSON format.
    """
    body = error_body(error)
    if is_proto_json and error.field and not isinstance(error, BodyFieldError):
        if error.field in ONEOFS:
            # A oneof has no name in JSON.
            names = {error.field: "body"}
        else:
            # Word by word: a message on `message_ids[1]` may also name `message_ids[0]`.
            names = {word: camel_case(word) for word in re.findall(r"\w+", error.field)}
        for part in ("param", "message"):
            text = body["error"][part]
            body["error"][part] = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), text)
    # Rounded up, because a retry slightly too early would be rejected again.
    headers = {"retry-after": f"{math.ceil(error.retry_seconds)}"} if error.retry_seconds else {}
    if isinstance(error, QuotaError):
        headers |= rate_limit_headers(error.levels)
    if isinstance(error, BodyTooSlowError):
        headers["connection"] = "close"
    if isinstance(error, UnauthenticatedError):
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body, status_and_type(error)[0], headers)


def camel_case(name: str) -> str:
    """Return the JSON name of a field of protobuf."""
    return re.sub("_([a-z])", lambda letter: letter[1].upper(), name)


def rate_limit_headers(levels: QuotaLevels) -> dict[str, str]:
    """Return quotas in OpenAI's headers x-ratelimit-{limit,remaining,reset}-{requests,tokens}.

    They cover requests per minute and tokens per day, and in the same form feedback events and
    calls per minute and erasures per hour; OpenAI has none for turns. Unlimited resources have no
    header.
    """
    headers = {}
    for limit in WINDOWS:
        if level := levels.get(limit):
            headers[f"x-ratelimit-limit-{limit}"] = str(level.limit)
            headers[f"x-ratelimit-remaining-{limit}"] = str(level.remaining)
            headers[f"x-ratelimit-reset-{limit}"] = duration(level.reset_seconds)
    return headers


def duration(seconds: float) -> str:
    """Return a duration in OpenAI's format (6m0s), rounded up to whole seconds."""
    whole = math.ceil(seconds)
    hours, minutes = whole // 3600, whole % 3600 // 60
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if whole >= 60 else "", f"{whole % 60}s"]
    return "".join(parts)
