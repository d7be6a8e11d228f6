"""Signatures of the calls of training and of operators to the services.

A token is a JWT, signed with Ed25519 (RFC 8037). It names the caller, the method and the expiry;
the user is empty, because these calls are made for no user. The services verify tokens and list the
methods of each caller, see docs/identity.md.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from training.errors import ConfigError

VARIABLE = "TW_TRAINING_IDENTITY_KEY"
FOLDER = "identity"  # of the keys in a state folder
TRAINING, OPERATOR = "training", "operator"
IDENTITY_KEY = "x-tw-identity"
TOKEN_SECONDS = 60
KEY_ID_DIGITS = 16


@dataclass(frozen=True)
class ServiceIdentity:
    """Name and private key (PKCS 8, PEM) of a caller.

    The file is read for each call: a long run follows a rotation of the key.
    """

    caller: str
    key_file: Path

    def metadata(self, method: str) -> tuple[str, str]:
        """Return the metadata entry that signs a call of `/package.Service/Method`.

        Raises:
            ConfigError: the key file is unusable.
        """
        unusable = ConfigError(
            f"{self.key_file}: is no readable Ed25519 key in PEM",
            field=str(self.key_file),
            reason="INVALID_IDENTITY_KEY",
        )
        try:
            key = load_pem_private_key(self.key_file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            raise unusable from error
        if not isinstance(key, Ed25519PrivateKey):
            raise unusable
        public = key.public_key().public_bytes_raw()
        header = {
            "alg": "EdDSA",
            "kid": hashlib.sha256(public).hexdigest()[:KEY_ID_DIGITS],
            "typ": "JWT",
        }
        claims = {
            "iss": self.caller,
            "exp": int(time.time()) + TOKEN_SECONDS,
            "method": method,
            "tenant": "",
            "user": "",
        }
        signed = f"{_encoded(json.dumps(header).encode())}.{_encoded(json.dumps(claims).encode())}"
        return IDENTITY_KEY, f"{signed}.{_encoded(key.sign(signed.encode()))}"


def identity_in(state: Path, caller: str) -> ServiceIdentity | None:
    """Return a caller's identity in the state folder of `thumbwheel up`, or None without one."""
    file = state / FOLDER / f"{caller}.key"
    return ServiceIdentity(caller, file) if file.exists() else None


def training_identity(environment: Mapping[str, str], state: Path) -> ServiceIdentity | None:
    """Return training's identity: the key in TW_TRAINING_IDENTITY_KEY, or in the state folder."""
    if given := environment.get(VARIABLE):
        return ServiceIdentity(TRAINING, Path(given))
    return identity_in(state, TRAINING)


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
