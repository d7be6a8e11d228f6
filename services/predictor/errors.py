"""What the predictor can answer instead of text. The HTTP edge maps `status` and `kind`; nothing
here holds user text.

PredictorError ├── InvalidRequestError       400  the request is wrong: names the parameter and the
limit ├── ModelRefusedError         400  a model directory that cannot be served: names what is
missing ├── VersionNotFoundError      404  no such version is loaded ├── VersionConflictError
409  the id is already taken by other files ├── VersionInUseError         409  answers run on the
version, and it was only to go if none do ├── OverloadedError           429  the queue is full: come
back later ├── UnavailableError          503  loading, draining, or the cache overflowed: nothing is
wrong with the request └── EngineFailedError         500  the engine broke; the version must be
loaded again
"""


class PredictorError(Exception):
    """An error that its caller may see. The chassis has the same attributes, but imports gRPC,
    which this image has not.

    Args:
        text: the message for a person; names the field and what is allowed; never holds user text.
        param: the request's parameter at fault, if it is one's fault; the only one of the
            attributes that the HTTP body has.
        field: what is at fault, as the caller names it: a parameter, a file, a tensor, a
            configuration field; `param` if it is not given.
        reason: a stable UPPER_SNAKE_CASE code of this kind of fault; the class's own code if it is
            not given.
        limit: what would be allowed; "" if there is no limit to tell.
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
    """The request is wrong; the text names the parameter and its limit."""

    status = 400
    kind = "invalid_request_error"
    reason = "INVALID_REQUEST"


class ModelRefusedError(PredictorError):
    """The model directory cannot be served; the text names the file or the configuration field."""

    status = 400
    kind = "model_refused"
    reason = "MODEL_REFUSED"


class VersionNotFoundError(PredictorError):
    """No version of this name is loaded."""

    status = 404
    kind = "not_found_error"
    reason = "UNKNOWN"


class VersionConflictError(PredictorError):
    """A version is immutable: the same id came with other files."""

    status = 409
    kind = "conflict"
    reason = "MISMATCH"


class VersionInUseError(PredictorError):
    """Answers run on the version: ask again when they have ended."""

    status = 409
    kind = "in_use"
    reason = "IN_USE"


class OverloadedError(PredictorError):
    """Too many requests wait already."""

    status = 429
    kind = "overloaded"
    reason = "OVERLOADED"


class UnavailableError(PredictorError):
    """Not now: the same request may succeed later."""

    status = 503
    kind = "unavailable"
    reason = "UNAVAILABLE"


class EngineFailedError(PredictorError):
    """The engine of this version stopped working."""

    status = 500
    kind = "server_error"
    reason = "ENGINE_FAILED"
