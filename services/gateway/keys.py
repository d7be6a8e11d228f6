"""API keys: `tw_` and 256 random bits, known here only by their SHA-256.

The bits are random, so a plain hash is enough: there is no dictionary to try.
"""

import hashlib
import hmac
import os
import re
import secrets
import time
import uuid
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.chassis.errors import UnauthenticatedError
from services.chassis.identity import Caller

PREFIX = "tw_"
_SECRET = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
# No slash: tenant and user are joined by one.
_NAME = re.compile(r"[A-Za-z0-9._@+-]{1,64}")
MAX_CACHED_KEYS = 10_000
OWNER = Caller("default", "owner")


@dataclass(frozen=True)
class StoredKey:
    """What is kept of a key. Times are seconds since 1970; `revoke_time` None: it works."""

    key_id: str
    digest: bytes
    caller: Caller
    create_time: float
    revoke_time: float | None = None


class KeyStore(Protocol):
    """Where keys are kept."""

    async def find(self, digest: bytes) -> StoredKey | None:
        """The key with this hash."""

    async def add(self, key: StoredKey) -> None:
        """Keep a key; keeping it again changes nothing."""

    async def list_keys(self) -> list[StoredKey]:
        """All keys, oldest first."""

    async def revoke(self, key_id: str, revoke_time: float) -> bool:
        """Make a key worthless; False if there is no such key that works."""


def digest_of(secret: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(secret.encode()).digest()


def mint(caller: Caller) -> tuple[str, StoredKey]:
    """A new key: the secret, to be shown once, and what is kept.

    Raises:
        ValueError: tenant or user is not 1 to 64 of letters, digits and ._@+-
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, stored(secret, caller)


def stored(secret: str, caller: Caller) -> StoredKey:
    """What is kept of a key. Raises: ValueError, see `mint`; also if the secret is not a key."""
    for name, value in (("tenant", caller.tenant), ("user", caller.user)):
        if not _NAME.fullmatch(value):
            raise ValueError(f"{name} must be 1 to 64 of letters, digits and ._@+-")
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"a key is {PREFIX} and 43 of letters, digits, - and _")
    return StoredKey(str(uuid.uuid4()), digest_of(secret), caller, time.time())


def owner_secret(file: Path) -> str:
    """The key in the file; a new one is written there, readable by its owner alone, if the file is not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Under another name first: a reader never sees half a key.
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.touch(mode=0o600, exist_ok=False)
        draft.write_text(PREFIX + secrets.token_urlsafe(32) + "\n")
        draft.rename(file)
    return file.read_text().strip()


class Keys:
    """Tells who calls. What the store says is believed for a few seconds, so a revocation takes that long."""

    def __init__(self, store: KeyStore, cache_seconds: float) -> None:
        self._store, self._cache_seconds = store, cache_seconds
        self._cache: OrderedDict[bytes, tuple[float, StoredKey]] = OrderedDict()

    async def authenticate(self, authorization: str) -> Caller:
        """The user of a `Bearer` key.

        Raises:
            UnauthenticatedError: no key, or not one that works.
        """
        scheme, _, secret = authorization.partition(" ")
        if not authorization or scheme.lower() != "bearer":
            raise _refused("the call carries no API key", "API_KEY_MISSING")
        if not _SECRET.fullmatch(secret):
            raise _refused("the API key is not known", "API_KEY_INVALID")
        digest = digest_of(secret)
        key = self._cached(digest) or await self._store.find(digest)
        if key is None or key.revoke_time is not None or not hmac.compare_digest(key.digest, digest):
            raise _refused("the API key is not known", "API_KEY_INVALID")
        self._remember(digest, key)
        return key.caller

    def _cached(self, digest: bytes) -> StoredKey | None:
        until, key = self._cache.get(digest, (0.0, None))
        return key if time.monotonic() < until else None

    def _remember(self, digest: bytes, key: StoredKey) -> None:
        if self._cached(digest):
            return
        self._cache[digest] = (time.monotonic() + self._cache_seconds, key)
        self._cache.move_to_end(digest)
        while len(self._cache) > MAX_CACHED_KEYS:
            self._cache.popitem(last=False)


def _refused(text: str, reason: str) -> UnauthenticatedError:
    return UnauthenticatedError(text, reason=reason, field="authorization", limit=f"Bearer {PREFIX}…")
