"""The errors that domain code raises, and the one table that turns them into statuses.

    ServiceError
    ├── InvalidArgumentError      the request is wrong: names field and limit
    ├── UnauthenticatedError      no key, or a wrong one
    ├── PermissionDeniedError     the key may not do this
    ├── NotFoundError             not there, or another user's: the same answer
    ├── AlreadyExistsError        the same idempotency key with another payload
    ├── FailedPreconditionError   not in this state
    ├── ResourceExhaustedError    too much at once: come back later
    ├── UnavailableError          something behind us is away: nothing was done
    └── DeadlineExceededError     it took too long

Anything else becomes INTERNAL with a fixed text, so that neither user text nor internals leave the
process.
"""

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

DOMAIN = "thumbwheel"
DETAILS_KEY = "grpc-status-details-bin"


class DetailedError(Exception):
    """An error whose attributes say what its text says; none holds user text. `field`: the request
    field, setting or file at fault; `reason`: a stable UPPER_SNAKE_CASE code; `limit`: what would
    be allowed. Each is "" where there is none.
    """

    reason = "INTERNAL"

    def __init__(self, text: str, *, field: str = "", reason: str = "", limit: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.field = field
        self.reason = reason or type(self).reason
        self.limit = limit


class ServiceError(DetailedError):
    """An error that the caller of an RPC may see. `retry_seconds`: when to try again; 0 if there is
    no such time.
    """

    code = grpc.StatusCode.INTERNAL
    # A peer's error on its way to our caller.
    passed_on = False

    def __init__(
        self,
        text: str,
        *,
        reason: str = "",
        field: str = "",
        limit: str = "",
        retry_seconds: float = 0.0,
    ) -> None:
        super().__init__(text, field=field, reason=reason, limit=limit)
        self.retry_seconds = retry_seconds


class InvalidArgumentError(ServiceError):
    """The request is wrong; `field` and `limit` say where and what would be right."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_ARGUMENT"


class UnauthenticatedError(ServiceError):
    """No key, or one that is not known."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDeniedError(ServiceError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class NotFoundError(ServiceError):
    """Not there, or not the caller's."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "NOT_FOUND"


class AlreadyExistsError(ServiceError):
    """The idempotency key was used with another payload; the first stands."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "IDEMPOTENCY_MISMATCH"


class FailedPreconditionError(ServiceError):
    """Right in itself, but not in the present state."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "FAILED_PRECONDITION"


class ResourceExhaustedError(ServiceError):
    """A limit on work at once was reached. `is_load`: the machines are busy, and not a limit of the
    caller's own used up.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"
    is_load = True


class UnavailableError(ServiceError):
    """Something behind us is away."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "UNAVAILABLE"


class DeadlineExceededError(ServiceError):
    """It took longer than the caller allowed."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_EXCEEDED"


KIND_BY_CODE = {kind.code: kind for kind in ServiceError.__subclasses__()}


def status_details(error: ServiceError) -> bytes:
    """google.rpc.Status with one ErrorInfo (and RetryInfo where there is a time), serialised for
    the trailing metadata.
    """
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    if error.field:
        info.metadata["field"] = error.field
    if error.limit:
        info.metadata["limit"] = error.limit
    status = status_pb2.Status(code=error.code.value[0], message=error.text)
    status.details.add().Pack(info)
    if error.retry_seconds:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_seconds * 1e9))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return bytes(status.SerializeToString())


def from_rpc(error: grpc.aio.AioRpcError, peer: str) -> ServiceError:
    """A remote error as one of ours, so that it passes through with its reason, field and limit.

    A code outside the table (UNKNOWN, INTERNAL, CANCELLED by a dying peer …) is the peer's fault
    and becomes UnavailableError.
    """
    translated = _translate(error, peer)
    translated.passed_on = True
    return translated


def _translate(error: grpc.aio.AioRpcError, peer: str) -> ServiceError:
    kind = KIND_BY_CODE.get(error.code(), UnavailableError)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in _details(error):
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
    if info.domain != DOMAIN:
        return kind(
            f"the {peer} service did not answer as it should ({error.code().name})",
            reason=_peer_reason(kind, peer),
        )
    return kind(
        error.details() or kind.reason,
        reason=info.reason,
        field=info.metadata.get("field", ""),
        limit=info.metadata.get("limit", ""),
        retry_seconds=retry.retry_delay.ToNanoseconds() / 1e9,
    )


def _peer_reason(kind: type[ServiceError], peer: str) -> str:
    return f"{peer.upper()}_UNAVAILABLE" if kind is UnavailableError else kind.reason


def _details(error: grpc.aio.AioRpcError) -> list[any_pb2.Any]:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return list(status_pb2.Status.FromString(value).details)
    return []
