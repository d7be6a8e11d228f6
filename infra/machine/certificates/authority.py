"""Certificate authority, and the folder of certificates for the authority and for each service.

Each certificate carries the two names that services/chassis/mutual_tls.py compares. The certificate
of the authority is created once. Certificates of services are renewed before they expire.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from infra.service_table import service_table

# Backdate certificates, so that a clock that is slightly behind does not reject a new certificate.
BACKDATING = timedelta(hours=1)
_SIGNING_ONLY = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True)
class CertificatePair:
    """A certificate and its private key, both in PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Sign certificates with the key of the authority."""

    def __init__(self, pair: CertificatePair) -> None:
        self.pair = pair
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = load_pem_private_key(pair.key, password=None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise TypeError("the authority's key is not an elliptic-curve key")
        self._key = key

    @classmethod
    def create(cls, days: float) -> "Authority":
        """Create an authority with a new key."""
        key = generate_private_key(SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Thumbwheel's own authority")])
        builder = (
            _builder(name, name, key, datetime.now(UTC) + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            # Python 3.13 and later reject an authority without this extension (RFC 5280, 4.2.1.3).
            .add_extension(_SIGNING_ONLY, critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
        )
        return cls(_pair(builder.sign(key, hashes.SHA256()), key))

    def issue(self, service: str, days: float) -> CertificatePair:
        """Issue a certificate for a service, valid for server and client authentication.

        A negative number of days yields an expired certificate.
        """
        names = [
            x509.UniformResourceIdentifier(f"spiffe://thumbwheel/{service}"),
            x509.DNSName(f"{service}.thumbwheel"),
        ]
        return self.sign(x509.Name([]), names, days)

    def sign(
        self, subject: x509.Name, names: Sequence[x509.GeneralName], days: float
    ) -> CertificatePair:
        """Sign a certificate for a subject with alternative names, and create its key."""
        key = generate_private_key(SECP256R1())
        builder = (
            _builder(
                subject, self._certificate.subject, key, datetime.now(UTC) + timedelta(days=days)
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            # Name the key that signed, to tell two authorities with the same name apart while the
            # newer replaces the older.
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
        )
        if names:
            # RFC 5280 requires a critical extension if the subject is empty.
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=not subject.rdns
            )
        return _pair(builder.sign(self._key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, end: datetime
) -> x509.CertificateBuilder:
    begin = min(datetime.now(UTC), end) - BACKDATING
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _pair(certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> CertificatePair:
    return CertificatePair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


# Callers of internal methods that are not services.
COMMANDS = ("training", "operator", "test-health")
AUTHORITY_DAYS = 3650.0


def certificate_names() -> tuple[str, ...]:
    """Return the names with a certificate: services with a gRPC server, and commands."""
    return (*(service.name for service in service_table().grpc), *COMMANDS)


def issue_certificates(folder: Path, services: Iterable[str], days: float) -> list[str]:
    """Write certificates that are missing or have less than half of their lifetime left.

    Return the names of the services written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "authority.pem", folder / "authority.key"
    if not certificate.exists():
        write_pair(folder, "authority", Authority.create(AUTHORITY_DAYS).pair)
    authority = Authority(CertificatePair(certificate.read_bytes(), key.read_bytes()))
    written = []
    for service in services:
        file = folder / f"{service}.pem"
        if file.exists():
            end = x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc
            if end - datetime.now(UTC) >= timedelta(days=days / 2):
                continue
        write_pair(folder, service, authority.issue(service, days))
        written.append(service)
    return written


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


def _replace(file: Path, content: bytes, mode: int) -> None:
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    draft.touch(mode=mode)
    draft.write_bytes(content)
    draft.rename(file)
