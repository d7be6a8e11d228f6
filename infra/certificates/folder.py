"""A folder of certificates: the authority's, made once, and one a service, made anew before it
expires.
"""

import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from infra.certificates.authority import Authority, Pair

SERVICES = (
    "gateway",
    "guardrail",
    "enhancer",
    "session",
    "generator",
    "feedback",
    "training",
    "operator",
)
AUTHORITY_DAYS = 3650.0


def fill(folder: Path, services: Iterable[str], days: float) -> list[str]:
    """Write what is missing, and what has less than half of its days left. Returns the names of the
    services written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    authority = _authority(folder)
    stale = [service for service in services if _days_left(folder / f"{service}.pem") < days / 2]
    for service in stale:
        write(folder, service, authority.issue(service, days))
    return stale


def tls_settings(folder: Path, service: str) -> dict[str, Path]:
    """The settings of a service, without the prefix."""
    return {
        "tls_certificate": folder / f"{service}.pem",
        "tls_key": folder / f"{service}.key",
        "tls_authority": folder / "authority.pem",
    }


def write(folder: Path, name: str, pair: Pair) -> None:
    """Put a pair in its place; whoever reads meanwhile sees the one before or this one, or two that
    do not fit yet.
    """
    _replace(folder / f"{name}.key", pair.key, 0o600)
    _replace(folder / f"{name}.pem", pair.certificate, 0o644)


def _authority(folder: Path) -> Authority:
    certificate, key = folder / "authority.pem", folder / "authority.key"
    if not certificate.exists():
        write(folder, "authority", Authority.make(AUTHORITY_DAYS).pair)
    return Authority(Pair(certificate.read_bytes(), key.read_bytes()))


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
