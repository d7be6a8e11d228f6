"""Errors that domain code raises, with their gRPC status codes.

    ServiceError
    ├── InvalidArgumentError      the request is invalid; field and limit are named
    ├── UnauthenticatedError      no key or an unknown key
    ├── PermissionDeniedError     the key lacks the permission
    ├── NotFoundError             absent or owned by another user, indistinguishably
    ├── AlreadyExistsError        the same idempotency key with another payload
    ├── FailedPreconditionError   not allowed in the present state
    ├── ResourceExhaustedError    a limit is reached; retry later
    ├── UnavailableError          a dependency is unavailable; no change was made
    └── DeadlineExceededError     the deadline passed

Any other error becomes INTERNAL with a fixed text, so that no user text or internals leave the
process.
"""

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "thumbwheel"
DETAILS_KEY = "grpc-status-details-bin"
# Start of the reasons with which a service refuses a call of another, see `service_identity`.
SIGNED_CALL_REASONS = "SERVICE_TOKEN_"


class DetailedError(Exception):
    """An error with its facts as attributes. No attribute holds user text.

    Args:
        text: message for people.
        field: the request field, setting or file at fault, or "".
        reason: a stable code in UPPER_SNAKE_CASE; by default the class's.
        limit: the allowed values, or "".
    """

    reason = "INTERNAL"

    def __init__(self, text: str, *, field: str = "", reason: str = "", limit: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.field = field
        self.reason = reason or type(self).reason
        self.limit = limit


class SchemaRevisionError(DetailedError):
    """Schema of a database without the required revision, `limit`; the text names the command."""

    reason = "MISMATCH"


class ServiceError(DetailedError):
    """An error that the caller of an RPC may see.

    `actual` is the value that exceeds `limit`, in its unit, or "" if it would reveal user text.
    `retry_seconds` is the delay before a retry, or 0 if none is known.
    """

    code = grpc.StatusCode.INTERNAL
    # True for an error of a peer, translated by `from_rpc`.
    from_peer = False

    def __init__(
        self,
        text: str,
        *,
        reason: str = "",
        field: str = "",
        limit: str = "",
        actual: str = "",
        retry_seconds: float = 0.0,
    ) -> None:
        super().__init__(text, field=field, reason=reason, limit=limit)
        self.actual = actual
        self.retry_seconds = retry_seconds


class InvalidArgumentError(ServiceError):
    """The request is invalid; `field` and `limit` name the fault and the allowed values."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class UnauthenticatedError(ServiceError):
    """The call carries no key or an unknown key."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(ServiceError):
    """The caller is known, but lacks the permission."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class NotFoundError(ServiceError):
    """The object is absent, or belongs to another user."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExistsError(ServiceError):
    """The idempotency key was used with another payload; the first payload remains valid."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "IDEMPOTENCY_MISMATCH"


class FailedPreconditionError(ServiceError):
    """The request is valid, but not allowed in the present state."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class ResourceExhaustedError(ServiceError):
    """A limit was reached: of busy machines if `is_load`, otherwise the caller's own limit."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"
    is_load = True


class UnavailableError(ServiceError):
    """A dependency of the service is unavailable."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class DeadlineExceededError(ServiceError):
    """The call took longer than its deadline allows."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


ERROR_BY_CODE = {error_class.code: error_class for error_class in ServiceError.__subclasses__()}


def status_details(error: ServiceError) -> bytes:
    """Serialise a google.rpc.Status for the trailing metadata.

    The status has one ErrorInfo, and a RetryInfo if the error has a retry delay.
    """
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for name in ("field", "limit", "actual"):
        if value := getattr(error, name):
            info.metadata[name] = value
    status = status_pb2.Status(code=error.code.value[0], message=error.text)
    status.details.add().Pack(info)
    if error.retry_seconds:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_seconds * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return bytes(status.SerializeToString())


def from_rpc(error: grpc.aio.AioRpcError, peer: str) -> ServiceError:
    """Translate the error of a peer; reason, field and limit are preserved.

    A code without a class here (UNKNOWN, INTERNAL, CANCELLED by a dying peer …) is a failure of the
    peer and becomes UnavailableError. So does the refusal of this service's token, because the
    credentials of the user are valid.
    """
    error_class = ERROR_BY_CODE.get(error.code(), UnavailableError)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in _details(error):
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
    if info.domain != DOMAIN:
        # Not raised by a service of ours, but for example by gRPC or a proxy.
        is_unavailable = error_class is UnavailableError
        is_late = error_class is DeadlineExceededError
        translated = error_class(
            f"the {peer} service {'did not answer in time' if is_late else 'failed'}",
            reason=f"{peer.upper()}_UNAVAILABLE" if is_unavailable else error_class.reason,
        )
    else:
        if info.reason.startswith(SIGNED_CALL_REASONS):
            error_class = UnavailableError
        translated = error_class(
            error.details() or error_class.reason,
            reason=info.reason,
            field=info.metadata.get("field", ""),
            limit=info.metadata.get("limit", ""),
            actual=info.metadata.get("actual", ""),
            retry_seconds=retry.retry_delay.ToNanoseconds() / 1e9,
        )
    translated.from_peer = True
    return translated


def _details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return list(status_pb2.Status.FromString(value).details)
    return []
