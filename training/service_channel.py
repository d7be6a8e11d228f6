"""gRPC channel of training to a service: certificates, signed calls, retries and errors."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import grpc

from training.errors import UnavailableError
from training.service_identity import TOKEN_SECONDS, ServiceIdentity

log = logging.getLogger(__name__)

AGAIN_SECONDS = 1.0
# Longest wait for a connection: the retries of a call, below, take 8 s.
CONNECT_SECONDS = 10.0
RETRIES = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.2s",
                "maxBackoff": "5s",
                "backoffMultiplier": 3,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}
OPTIONS = [
    ("grpc.service_config", json.dumps(RETRIES)),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
]


class RemoteError(UnavailableError):
    """A service is unreachable or rejected a call; the text names service, address and cause."""

    reason = "UNREACHABLE"


class DeadlineError(RemoteError):
    """A call missed its deadline; its effect may still happen."""

    reason = "DEADLINE_EXCEEDED"


@dataclass(frozen=True)
class TlsFiles:
    """Client certificate, key and trusted authorities of training."""

    certificate: Path
    key: Path
    authority: Path

    def read(self) -> Sequence[bytes]:
        """Return the bytes of authority, key and certificate, all of the same generation.

        Raises:
            RemoteError: a file cannot be read.
        """
        try:
            found = self._read()
            # The kubelet replaces all files at once, but possibly between two reads of this loop.
            while (again := self._read()) != found:
                found = again
        except OSError as error:
            raise RemoteError(
                f"the files of --tls cannot be read: {error}", field="--tls", reason="UNREADABLE"
            ) from error
        return found

    def _read(self) -> Sequence[bytes]:
        return [file.read_bytes() for file in (self.authority, self.key, self.certificate)]


class ServiceChannel:
    """Channel to a service; with TLS, opened again after a change of the certificate files.

    A run can last longer than a certificate. Replaced channels stay open until `close`, because
    another thread may have a call on them.

    Args:
        identity: signs the calls; None sends calls without a token.
    """

    def __init__(
        self,
        target: str,
        service: str,
        tls: TlsFiles | None,
        identity: ServiceIdentity | None = None,
    ) -> None:
        self._target, self._service, self._tls = target, service, tls
        self._identity = identity
        self._files: Sequence[bytes] = tls.read() if tls else ()
        self._channels = [self._open()]

    def current(self) -> grpc.Channel:
        """Return the channel with the present certificate."""
        if self._tls:
            # Files that cannot be read now are being replaced; the next call reads them.
            with suppress(RemoteError):
                if (files := self._tls.read()) != self._files:
                    self._files = files
                    self._channels.append(self._open())
        return self._channels[-1]

    def close(self) -> None:
        for channel in self._channels:
            channel.close()

    def _open(self) -> grpc.Channel:
        if self._tls:
            # gRPC clients compare DNS names only, see services/chassis/mutual_tls.py.
            options = [*OPTIONS, ("grpc.ssl_target_name_override", f"{self._service}.thumbwheel")]
            channel = grpc.secure_channel(
                self._target, grpc.ssl_channel_credentials(*self._files), options
            )
        else:
            channel = grpc.insecure_channel(self._target, options=OPTIONS)
        if not self._identity:
            return channel
        return grpc.intercept_channel(channel, _SigningInterceptor(self._identity))


class ServiceClient:
    """Client with blocking calls to a service; every call may be repeated.

    Args:
        target: address of the service.
        tls: certificate files; None: calls are not encrypted.
        timeout_seconds: time for which a call is repeated while the service is unavailable.
        identity: signs the calls; None sends calls without a token.
    """

    service: ClassVar[str]
    # The generated types only know grpc.aio.
    stub: ClassVar[type[Any]]

    def __init__(
        self,
        target: str,
        tls: TlsFiles | None = None,
        timeout_seconds: float = 0.0,
        identity: ServiceIdentity | None = None,
    ) -> None:
        self._target, self._patience_seconds = target, timeout_seconds
        self._channel = ServiceChannel(target, self.service, tls, identity)
        self._unknown_calls: set[str] = set()

    def close(self) -> None:
        self._channel.close()

    @property
    def _stub(self) -> Any:
        return self.stub(self._channel.current())

    def _call(self, call: Callable[[], Any]) -> Any:
        return translated(self.service, self._target, self._patience_seconds, call)

    def _note_unknown(self, error: RemoteError, call: str, warning: str) -> None:
        """Log once that an earlier release of the service does not know a call.

        Args:
            warning: text with places for the service and the call, and the effect.

        Raises:
            RemoteError: the error has another reason than an unknown call.
        """
        if error.reason != grpc.StatusCode.UNIMPLEMENTED.name:
            raise error
        if call not in self._unknown_calls:
            log.warning(warning, self.service, call)
        self._unknown_calls.add(call)


def require_reachable(
    service: str, target: str, tls: TlsFiles | None, timeout_seconds: float
) -> None:
    """Wait until a service accepts a connection, for 10 s or the longer given time.

    Raises:
        RemoteError: the service has accepted none.
    """
    seconds = max(timeout_seconds, CONNECT_SECONDS)
    with closing(ServiceChannel(target, service, tls)) as channel:
        try:
            grpc.channel_ready_future(channel.current()).result(seconds)
        except grpc.FutureTimeoutError as error:
            code = grpc.StatusCode.UNAVAILABLE.name
            raise RemoteError(
                f"{service} service at {target}: {code}: no connection within {seconds:g} s",
                field=service,
                reason=code,
                limit=f"{seconds:g} s",
            ) from error


class _CallDetails(NamedTuple):
    """Details of a call, with the fields of `grpc.ClientCallDetails`."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class _SigningInterceptor(grpc.UnaryUnaryClientInterceptor):
    """Interceptor with a token for each call."""

    def __init__(self, identity: ServiceIdentity) -> None:
        self._identity = identity

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        token = self._identity.metadata(details.method)
        present = _CallDetails(*(getattr(details, name) for name in _CallDetails._fields))
        metadata = (*(present.metadata or ()), token)
        return continuation(present._replace(metadata=metadata), request)


def translated(service: str, target: str, timeout_seconds: float, call: Callable[[], Any]) -> Any:
    """Make a call, and repeat it while the service is unavailable, up to a time limit.

    Raises:
        DeadlineError: the call missed its deadline.
        RemoteError: any other error of the call.
    """
    end, repeated = time.monotonic() + timeout_seconds, False
    while True:
        started = time.monotonic()
        try:
            return call()
        except grpc.RpcError as error:
            # The retries of gRPC repeat the token, which expires during a long attempt.
            is_late = time.monotonic() - started >= TOKEN_SECONDS
            if error.code() is grpc.StatusCode.UNAUTHENTICATED and is_late and not repeated:
                repeated = True
                continue
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() >= end:
                kind = (
                    DeadlineError
                    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                    else RemoteError
                )
                code = error.code().name
                raise kind(
                    f"{service} service at {target}: {code}: {error.details()}",
                    field=service,
                    reason=code,
                ) from error
        time.sleep(AGAIN_SECONDS)
