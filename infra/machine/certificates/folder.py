"""Folder of certificates for the authority and for each service.

The certificate of the authority is created once. Certificates of services are renewed before they
expire.
"""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from infra.machine.certificates.authority import Authority, CertificatePair
from infra.service_table import service_table

# Callers of internal methods that are not services.
COMMANDS = ("training", "operator")
AUTHORITY_DAYS = 3650.0


def certificate_names() -> tuple[str, ...]:
    """Return the names with a certificate: services with a gRPC server, and commands."""
    return (*(service.name for service in service_table().grpc), *COMMANDS)


def issue_certificates(folder: Path, services: Iterable[str], days: float) -> list[str]:
    """Write certificates that are missing or have less than half of their lifetime left.

    Return the names of the services written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = _authority(folder)
    stale = [service for service in services if _days_left(folder / f"{service}.pem") < days / 2]
    for service in stale:
        write_pair(folder, service, authority.issue(service, days))
    return stale


def tls_settings(folder: Path, service: str) -> dict[str, Path]:
    """Return the TLS settings of a service, without the prefix of their environment names."""
    return {
        "tls_certificate": folder / f"{service}.pem",
        "tls_key": folder / f"{service}.key",
        "tls_authority": folder / "authority.pem",
    }


def write_pair(folder: Path, name: str, pair: CertificatePair) -> None:
    """Replace a certificate and its key on disk.

    Each file is replaced atomically. A reader between the two renames sees a key and a certificate
    that do not match.
    """
    _replace(folder / f"{name}.key", pair.key, 0o600)
    _replace(folder / f"{name}.pem", pair.certificate, 0o644)


def _authority(folder: Path) -> Authority:
    certificate, key = folder / "authority.pem", folder / "authority.key"
    if not certificate.exists():
        write_pair(folder, "authority", Authority.create(AUTHORITY_DAYS).pair)
    return Authority(CertificatePair(certificate.read_bytes(), key.read_bytes()))


def _replace(file: Path, content: bytes, mode: int) -> None:
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.touch(mode=mode)
    draft.write_bytes(content)
    draft.rename(file)


def _days_left(file: Path) -> float:
    if not file.exists():
        return 0.0
    end = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
    return (end - datetime.now(UTC)) / timedelta(days=1)
