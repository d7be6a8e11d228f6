"""Mutual TLS between services, where they have certificates: each end knows which service the other
one is.

A certificate names its service twice: as `spiffe://thumbwheel/session`, which servers read, and as
the DNS name `session.thumbwheel`, because gRPC's clients compare no other. Changed files are read
again; what is connected stays so.
"""

import logging
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from services.chassis.errors import DetailedError, PermissionDeniedError
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

SPIFFE_PREFIX, DNS_SUFFIX = "spiffe://thumbwheel/", ".thumbwheel"
LOOK_AGAIN_SECONDS = 1.0

Callers = Mapping[str, frozenset[str]]
Pems = tuple[bytes, bytes, bytes]


class TlsFilesError(DetailedError):
    """Certificate, key or authorities cannot be used; `field` is the certificate's file."""

    reason = "INVALID_TLS_FILES"


class TlsFiles:
    """Certificate and key of this service, and the authorities that it believes. Raises:
    TlsFilesError.
    """

    def __init__(self, certificate: Path, key: Path, authority: Path) -> None:
        self._certificate, self._key, self._authority = certificate, key, authority
        self._stamp: Sequence[tuple[int, int]] = ()
        self._pems = self._read()
        self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
        # gRPC asks for a server's certificate in threads of its own.
        self._alone = threading.Lock()

    def pems(self) -> Pems:
        """The three files' bytes; the same object until there are others that fit together."""
        with self._alone:
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK_AGAIN_SECONDS
                try:
                    self._pems = self._read()
                except TlsFilesError:
                    # Usual in the middle of their being replaced.
                    log.warning(
                        "certificate files not usable", extra=fields(file=str(self._certificate))
                    )
            return self._pems

    def _read(self) -> Pems:
        files = (self._certificate, self._key, self._authority)
        try:
            stamp = _stamp(files)
            if stamp == self._stamp:
                return self._pems
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(self._certificate, self._key)
            context.load_verify_locations(self._authority)
            pems = (files[0].read_bytes(), files[1].read_bytes(), files[2].read_bytes())
            if _stamp(files) != stamp:
                raise TlsFilesError(
                    f"{self._certificate} and its key changed while they were read",
                    field=str(self._certificate),
                    reason="MISMATCH",
                )
        except OSError as error:  # ssl's errors are among them
            raise TlsFilesError(
                f"cannot use {', '.join(map(str, files))}: {error}", field=str(self._certificate)
            ) from error
        self._stamp = stamp
        return pems


def _stamp(files: Sequence[Path]) -> Sequence[tuple[int, int]]:
    return [(status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in files)]


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """For a server that asks its clients for certificates too."""
    used = files.pems()

    def configuration() -> Any:
        certificate, key, authority = used
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def changed_configuration() -> Any:
        # Asked before each handshake.
        nonlocal used
        before, used = used, files.pems()
        return None if used is before else configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), changed_configuration, True)


def require_peer(callers: Callers | None, method: str, context: Any, *, secure: bool) -> None:
    """Compare the calling service with the rule of `/package.Service/Method`. No table: the
    servicer asks by itself.

    Raises:
        PermissionDeniedError: no rule; or, if the callers are known by certificates, the rule does
            not name this one.
    """
    if callers is None:
        return
    allowed = callers.get(method[1:].replace("/", "."))
    if allowed is None:
        raise PermissionDeniedError("no rule allows this", reason="NO_RULE")
    if secure:
        (name,) = context.auth_context().get("peer_spiffe_id") or (b"",)
        if name.decode() not in {SPIFFE_PREFIX + service for service in allowed}:
            raise PermissionDeniedError(
                "the calling service may not do this", reason="PEER_NOT_ALLOWED"
            )


def secure_channel(
    target: str, peer: str, files: TlsFiles, options: Sequence[tuple[str, Any]]
) -> grpc.aio.Channel:
    """To one service, with the certificate that is there now."""
    certificate, key, authority = files.pems()
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.aio.secure_channel(
        target,
        credentials,
        options=[*options, ("grpc.ssl_target_name_override", peer + DNS_SUFFIX)],
    )
