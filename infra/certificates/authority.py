"""An authority that issues a certificate a service, by the two names that
services/chassis/mutual_tls.py compares.
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

# A clock that is a little behind must not find a certificate too young.
BACKDATED = timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, PEM."""

    certificate: bytes
    key: bytes


class Authority:
    """Signs certificates."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self._certificate = x509.load_pem_x509_certificate(pair.certificate)
        key = load_pem_private_key(pair.key, password=None)
        if not isinstance(key, EllipticCurvePrivateKey):
            raise TypeError("the authority's key is not one of ours")
        self._key = key

    @classmethod
    def make(cls, days: float) -> "Authority":
        """A new one, with a key of its own."""
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

    def issue(self, service: str, days: float) -> Pair:
        """A certificate for a service, good for both ends of a connection. Negative days: one that
        has expired.
        """
        names = [
            x509.UniformResourceIdentifier(f"spiffe://thumbwheel/{service}"),
            x509.DNSName(f"{service}.thumbwheel"),
        ]
        return self.sign(x509.Name([]), names, days)

    def sign(self, subject: x509.Name, names: Sequence[x509.GeneralName], days: float) -> Pair:
        """A certificate for a subject, by these names too, and its new key."""
        key = generate_private_key(SECP256R1())
        builder = (
            _builder(
                subject, self._certificate.subject, key, datetime.now(UTC) + timedelta(days=days)
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            # Which of two authorities of the same name signed: needed while one takes over from the
            # other.
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
            # Critical where the subject is empty.
            builder = builder.add_extension(
                x509.SubjectAlternativeName(names), critical=not subject.rdns
            )
        return _pair(builder.sign(self._key, hashes.SHA256()), key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, end: datetime
) -> x509.CertificateBuilder:
    begin = min(datetime.now(UTC), end) - BACKDATED
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _pair(certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(Encoding.PEM),
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
