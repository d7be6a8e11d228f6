"""Key files of the callers: Ed25519 private keys, and the folder of public keys by caller.

A public key is a file CALLER.pem or CALLER.NAME.pem: a caller has several keys during a rotation.
Its content is a public key, or a certificate, of which only the key is used: Helm's templates can
write a public key as a certificate only.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from durable_files.files import make_directory, write_file
from services.chassis.errors import DetailedError

KEY_ID_DIGITS = 16
CALLER = re.compile(r"[a-z][a-z0-9]{0,30}")
_FILE = re.compile(rf"({CALLER.pattern})(\.[\w-]+)?\.pem")
_CERTIFICATE = b"-----BEGIN CERTIFICATE-----"


class IdentityKeyError(DetailedError):
    """A key file is unusable; `field` is the file or folder."""

    reason = "INVALID_IDENTITY_KEY"


@dataclass(frozen=True)
class CallerKey:
    """Public key of a caller, and its file."""

    caller: str
    key: Ed25519PublicKey
    file: Path


def key_id_of(key: Ed25519PublicKey) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:KEY_ID_DIGITS]


def read_private_key(file: Path) -> Ed25519PrivateKey:
    """Read a private key (PKCS 8, PEM, not encrypted).

    Raises:
        IdentityKeyError: the file cannot be read or is no Ed25519 key.
    """
    try:
        key = load_pem_private_key(file.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(file, error) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(file, None)
    return key


def public_key_files(folder: Path) -> Sequence[Path]:
    """Return the files of public keys in a folder, by name.

    Raises:
        IdentityKeyError: the folder cannot be read.
    """
    try:
        return sorted(file for file in folder.iterdir() if _FILE.fullmatch(file.name))
    except OSError as error:
        raise _unusable(folder, error) from error


def read_public_keys(folder: Path) -> Mapping[str, CallerKey]:
    """Read the public keys of all callers by key id.

    Raises:
        IdentityKeyError: a file cannot be read or is no Ed25519 key, two callers have the same key,
            or the folder has no keys.
    """
    found: dict[str, CallerKey] = {}
    for file in public_key_files(folder):
        entry = CallerKey(file.name.split(".")[0], _read_public_key(file), file)
        other = found.setdefault(key_id_of(entry.key), entry)
        if other.caller != entry.caller:
            raise IdentityKeyError(
                f"{file} has the key of {other.caller}", field=str(file), reason="DUPLICATE"
            )
    if not found:
        raise IdentityKeyError(
            f"{folder} has no public keys", field=str(folder), limit="files CALLER[.NAME].pem"
        )
    return found


def create_key_pair(caller: str, private: Path, folder: Path) -> str:
    """Create a private key and add its public key to the folder. Returns the key id.

    Raises:
        IdentityKeyError: the caller's name is invalid, or the file of the private key exists.
    """
    if not CALLER.fullmatch(caller):
        raise IdentityKeyError("the caller is no name", field="caller", limit=CALLER.pattern)
    if private.exists():
        raise IdentityKeyError(f"{private} exists", field=str(private), reason="EXISTS")
    key = Ed25519PrivateKey.generate()
    for parent in (private.parent, folder):
        make_directory(parent, mode=0o700)
    key_id = key_id_of(key.public_key())
    # The public key first: a token must not be signed before receivers can verify it.
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    write_file(folder / f"{caller}.{key_id}.pem", public, mode=0o600)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_file(private, pem, mode=0o600)
    return key_id


def retire_keys(caller: str, private: Path, folder: Path) -> Sequence[str]:
    """Remove the caller's public keys, except the counterpart of `private`. Returns their key ids.

    Raises:
        IdentityKeyError: a key file is unusable, or the folder lacks the public key of `private`.
    """
    used, keys = key_id_of(read_private_key(private).public_key()), read_public_keys(folder)
    if used not in keys or keys[used].caller != caller:
        raise IdentityKeyError(
            f"{folder} lacks the public key {used} of {private}",
            field=str(folder),
            reason="MISMATCH",
        )
    retired = [name for name, key in keys.items() if key.caller == caller and name != used]
    for name in retired:
        keys[name].file.unlink()
    return retired


def _read_public_key(file: Path) -> Ed25519PublicKey:
    try:
        pem = file.read_bytes()
        is_certificate = pem.lstrip().startswith(_CERTIFICATE)
        key: object = (
            x509.load_pem_x509_certificate(pem).public_key()
            if is_certificate
            else load_pem_public_key(pem)
        )
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(file, error) from error
    if not isinstance(key, Ed25519PublicKey):
        raise _unusable(file, None)
    return key


def _unusable(file: Path, error: Exception | None) -> IdentityKeyError:
    # Errors of the parser may quote the file.
    cause = (error.strerror if isinstance(error, OSError) else "") or "no Ed25519 key in PEM"
    return IdentityKeyError(f"{file} is not usable: {cause}", field=str(file))
