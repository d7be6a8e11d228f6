"""Digests of the files of a release, and a detached signature over them.

The signature is ECDSA with P-256 over SHA-256, in base64: `openssl dgst -verify` reads it after
decoding, and it is the form of `cosign sign-blob` with a key.
"""

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.release.errors import ReleaseError

SUMS, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.pub"
CHUNK = 1 << 20


def file_digest(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in parts."""
    digest = hashlib.sha256()
    with path.open("rb") as content:
        while part := content.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def write_sums(folder: Path) -> Path:
    """Write SHA256SUMS of all files below the folder, sorted by name."""
    own = {SUMS, SIGNATURE, PUBLIC_KEY}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    lines = [f"{file_digest(path)}  {path.relative_to(folder)}\n" for path in files]
    target = folder / SUMS
    target.write_text("".join(lines))
    return target


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a private key in PEM without a password; `/dev/stdin` reads it from a pipe.

    Raises:
        ReleaseError: the file holds no such key, or a key of another kind.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The text of the error is left out: it could quote the file.
        raise ReleaseError(
            "--key: not a private key in PEM without a password", field="key", reason="MALFORMED"
        ) from error
    if not (isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1"):
        raise ReleaseError(
            "--key: the key is not ECDSA with P-256", field="key", limit="ECDSA P-256"
        )
    return key


def sign(sums: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write the signature over SHA256SUMS and the public key next to it."""
    signature = key.sign(sums.read_bytes(), ec.ECDSA(hashes.SHA256()))
    (sums.parent / SIGNATURE).write_bytes(base64.b64encode(signature) + b"\n")
    (sums.parent / PUBLIC_KEY).write_bytes(public_pem(key))


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the public key in PEM, the content of SHA256SUMS.pub."""
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
