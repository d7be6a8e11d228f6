"""Mutual TLS between services: each end verifies the service name of the other end.

A certificate names its service twice: as `spiffe://thumbwheel/session`, read by servers, and as the
DNS name `session.thumbwheel`, because gRPC clients verify DNS names only. Changed files are read
again for new connections; existing connections continue.
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
CHECK_INTERVAL_SECONDS = 1.0

# By `package.Service.Method`: the services that may call the method.
AllowedCallers = Mapping[str, frozenset[str]]
# Certificate, key, authorities.
PemFiles = tuple[bytes, bytes, bytes]


class TlsFilesError(DetailedError):
    """Certificate, key or authorities are unusable; `field` is the file of the certificate."""

    reason = "INVALID_TLS_FILES"


class TlsFiles:
    """Certificate and key of this service, and the trusted authorities, all PEM.

    Raises:
        TlsFilesError: the files cannot be read or do not match.
    """

    def __init__(self, certificate: Path, key: Path, authority: Path) -> None:
        self._certificate, self._key, self._authority = certificate, key, authority
        self._versions: Sequence[tuple[int, int]] = ()
        self._pem_files = self._read()
        self._next_check = time.monotonic() + CHECK_INTERVAL_SECONDS
        # gRPC requests the server's certificate in its own threads.
        self._lock = threading.Lock()

    def pem_files(self) -> PemFiles:
        """Return the bytes of the three files; the same object until a valid new set exists."""
        with self._lock:
            if time.monotonic() >= self._next_check:
                self._next_check = time.monotonic() + CHECK_INTERVAL_SECONDS
                try:
                    self._pem_files = self._read()
                except TlsFilesError:
                    # Expected while the files are being replaced one by one.
                    log.warning(
                        "certificate files not usable", extra=fields(file=str(self._certificate))
                    )
            return self._pem_files

    def _read(self) -> PemFiles:
        files = (self._certificate, self._key, self._authority)
        try:
            versions = _file_versions(files)
            if versions == self._versions:
                return self._pem_files
            # Loading the files verifies that the key belongs to the certificate.
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_cert_chain(self._certificate, self._key)
            context.load_verify_locations(self._authority)
            pem_files = (files[0].read_bytes(), files[1].read_bytes(), files[2].read_bytes())
            if _file_versions(files) != versions:
                raise TlsFilesError(
                    f"{self._certificate} and its key changed while they were read",
                    field=str(self._certificate),
                    reason="MISMATCH",
                )
        except OSError as error:  # includes ssl.SSLError
            raise TlsFilesError(
                f"cannot use {', '.join(map(str, files))}: {error}", field=str(self._certificate)
            ) from error
        self._versions = versions
        return pem_files


def _file_versions(files: Sequence[Path]) -> Sequence[tuple[int, int]]:
    return [(status.st_mtime_ns, status.st_ino) for status in (file.stat() for file in files)]


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials of a server that requires client certificates and reloads its own."""
    used = files.pem_files()

    def configuration() -> Any:
        certificate, key, authority = used
        return grpc.ssl_server_certificate_configuration([(key, certificate)], authority)

    def changed_configuration() -> Any:
        # gRPC calls this function before each handshake; None means unchanged.
        nonlocal used
        previous, used = used, files.pem_files()
        return None if used is previous else configuration()

    return grpc.dynamic_ssl_server_credentials(configuration(), changed_configuration, True)


def require_peer(
    callers: AllowedCallers | None, method: str, context: Any, *, secure: bool, signer: str = ""
) -> None:
    """Check the right of the calling service to call `/package.Service/Method`.

    Args:
        callers: the rules; None if the servicer checks its callers itself.
        method: path of the called method.

        secure: callers have certificates, so that the name of the service is compared.
        signer: the service that signed the call, see `service_identity`; "" is not compared.

    Raises:
        PermissionDeniedError: no rule exists for the method, the rule does not name the calling
            service, or certificate and signature name different services.
    """
    if callers is None:
        return
    allowed = callers.get(method[1:].replace("/", "."))
    if allowed is None:
        raise PermissionDeniedError("no rule allows calls of this method", reason="NO_RULE")
    is_allowed = not signer or signer in allowed
    if secure:
        (name,) = context.auth_context().get("peer_spiffe_id") or (b"",)
        # A stolen key of one allowed service must not work with the certificate of another.
        services = {signer} if signer else allowed
        is_allowed &= name.decode() in {SPIFFE_PREFIX + service for service in services}
    if not is_allowed:
        raise PermissionDeniedError(
            "the calling service may not call this method", reason="PEER_NOT_ALLOWED"
        )


def secure_channel(
    target: str, peer: str, files: TlsFiles, options: Sequence[tuple[str, Any]]
) -> grpc.aio.Channel:
    """Open a channel to the service `peer` with the present certificate files."""
    certificate, key, authority = files.pem_files()
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    return grpc.aio.secure_channel(
        target,
        credentials,
        options=[*options, ("grpc.ssl_target_name_override", peer + DNS_SUFFIX)],
    )
