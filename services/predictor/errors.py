"""Errors of the predictor; the HTTP edge maps `status` and `kind`.

No error contains user text.

    PredictorError
    ├── InvalidRequestError   400  the request is invalid; names parameter and limit
    ├── ContentTypeError      415  the body is not declared as JSON
    ├── UnauthenticatedError  401  the key is missing or wrong
    ├── ForbiddenError        403  sent by a web page, or to a host name that is not allowed
    ├── ModelRefusedError     400  the model directory is unusable; names the missing part
    ├── VersionNotFoundError  404  no such version is loaded
    ├── VersionConflictError  409  other files are loaded under this id
    ├── VersionInUseError     409  answers run on the version, so `only_idle` did not unload
    ├── OverloadedError       429  the queue is full; retry later
    ├── UnavailableError      503  loading, draining, or full cache; the request is valid
    └── EngineFailedError     500  the engine failed; load the version again
"""

from typing import Any


class PredictorError(Exception):
    """An error whose text is returned to the caller.

    The chassis has an error with the same attributes but imports gRPC, which this image does not
    contain.

    Args:
        text: the message, with field and allowed values; never user text.
        param: the request parameter at fault, if any; part of the HTTP body.
        field: the cause as named by the caller, such as a parameter, a file, a tensor, or a
            configuration field; `param` by default.
        reason: a stable UPPER_SNAKE_CASE code; the code of the class by default.
        limit: the allowed values; empty if there is no limit.
    """

    status = 500
    kind = "server_error"
    reason = "INTERNAL"

    def __init__(
        self,
        text: str,
        param: str | None = None,
        *,
        field: str = "",
        reason: str = "",
        limit: str = "",
    ) -> None:
        super().__init__(text)
        self.text = text
        self.param = param
        self.field = field or param or ""
        self.reason = reason or type(self).reason
        self.limit = limit


class InvalidRequestError(PredictorError):
    """The request is invalid; the text names parameter and limit."""

    status = 400
    kind = "invalid_request_error"
    reason = "INVALID_REQUEST"


class ContentTypeError(PredictorError):
    """The Content-Type of a body is not application/json."""

    status = 415
    kind = "invalid_request_error"
    reason = "CONTENT_TYPE"


class UnauthenticatedError(PredictorError):
    """The key of the model server is missing or wrong."""

    status = 401
    kind = "authentication_error"
    reason = "UNAUTHENTICATED"


class ForbiddenError(PredictorError):
    """The request comes from a web page, or names a host outside the allowed hosts."""

    status = 403
    kind = "permission_error"
    reason = "FORBIDDEN"


class ModelRefusedError(PredictorError):
    """The model directory is unusable; the text names the file or the configuration field."""

    status = 400
    kind = "model_refused"
    reason = "MODEL_REFUSED"


class VersionNotFoundError(PredictorError):
    """No version of this name is loaded."""

    status = 404
    kind = "not_found_error"
    reason = "UNKNOWN"


class VersionConflictError(PredictorError):
    """A version is immutable, but the same id was used for other files."""

    status = 409
    kind = "conflict"
    reason = "MISMATCH"


class VersionInUseError(PredictorError):
    """Answers run on the version; retry after their end."""

    status = 409
    kind = "in_use"
    reason = "IN_USE"


class OverloadedError(PredictorError):
    """The queue of waiting requests is full."""

    status = 429
    kind = "overloaded"
    reason = "OVERLOADED"


class UnavailableError(PredictorError):
    """The same request may succeed later."""

    status = 503
    kind = "unavailable"
    reason = "UNAVAILABLE"


class EngineFailedError(PredictorError):
    """The engine of this version stopped after an error."""

    status = 500
    kind = "server_error"
    reason = "ENGINE_FAILED"


def error_body(error: PredictorError, status: int) -> dict[str, Any]:
    """Return OpenAI's error object; its code is the HTTP status, as in vLLM."""
    return {
        "error": {"message": error.text, "type": error.kind, "param": error.param, "code": status}
    }
