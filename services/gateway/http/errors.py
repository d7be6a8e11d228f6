"""Service errors as HTTP: one table, one shape (OpenAI's, so that its clients raise their own
exceptions).
"""

import math
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
from services.gateway.http.rate_limits import rate_limit_headers
from services.gateway.quotas import QuotaError


class BodyTooLargeError(InvalidArgumentError):
    """More bytes than a request may have."""

    reason = "BODY_TOO_LARGE"


class BodyTooSlowError(InvalidArgumentError):
    """The body did not come in time; the connection is closed after it."""

    reason = "BODY_TOO_SLOW"


class MethodNotAllowedError(InvalidArgumentError):
    """The path exists, the method does not."""

    reason = "METHOD_NOT_ALLOWED"


# Looked up along the MRO: a subclass without a row is what its parent is.
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
    """The row of an error."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def error_body(error: ServiceError) -> dict[str, Any]:
    """`{"error": {message, type, param, code}}`; the message also says what the limit is, or what
    would be right.
    """
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


def error_response(error: ServiceError) -> Response:
    """The whole answer."""
    # Rounded up: who comes back a moment too early is refused again.
    headers = {"retry-after": f"{math.ceil(error.retry_seconds)}"} if error.retry_seconds else {}
    if isinstance(error, QuotaError):
        headers |= rate_limit_headers(error.standing)
    if isinstance(error, BodyTooSlowError):
        headers["connection"] = "close"
    if isinstance(error, UnauthenticatedError):
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_and_type(error)[0], headers)
