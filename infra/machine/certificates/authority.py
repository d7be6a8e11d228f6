"""Certificate authority that issues certificates for services.

Each certificate carries the two names that services/chassis/mutual_tls.py compares.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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

# Backdate certificates, so that a clock that is slightly behind does not reject a new certificate.
BACKDATING = timedelta(hours=1)


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
