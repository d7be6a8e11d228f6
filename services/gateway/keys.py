"""API keys: `tw_` and 256 random bits, known here only by their SHA-256.

The bits are random, so a plain hash is enough: there is no dictionary to try.
"""

import asyncio
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from services.chassis.errors import ServiceError, UnauthenticatedError
from services.chassis.identity import Caller
from services.chassis.telemetry import fields
from services.gateway.credential import ALL_SCOPES, USUAL_SCOPES, Credential, Scope

log = logging.getLogger(__name__)

PREFIX = "tw_"
_SECRET = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
# No slash: tenant and user are joined by one.
NAME = re.compile(r"[A-Za-z0-9._@+|:-]{1,64}")
NAME_LIMIT = "1 to 64 of letters, digits and ._@+|:-"
MAX_CACHED_KEYS = 10_000
# When a key was last used is for people who tidy up: an hour is close enough, and a write an hour
# costs nothing.
USE_NOTED_SECONDS = 3600.0
OWNER = Caller("default", "owner")


@dataclass(frozen=True)
class StoredKey:
    """What is kept of a key. Times are seconds since 1970; None: never.

    While a key is rotated, `previous_digest` is the hash of the secret before, which works until
    `previous_expire_time`.
    """

    key_id: str
    digest: bytes
    caller: Caller
    scopes: frozenset[Scope]
    create_time: float
    expire_time: float | None = None
    revoke_time: float | None = None
    previous_digest: bytes | None = None
    previous_expire_time: float | None = None
    last_use_time: float | None = None


class KeyLookup(Protocol):
    """Where keys are kept, as far as the door asks."""

    async def find(self, digest: bytes) -> StoredKey | None:
        """The key with this hash, or with this one before the last rotation."""

    async def note_use(self, key_id: str, use_time: float) -> None:
        """Keep that a key was used."""


def digest_of(secret: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(secret.encode()).digest()


def new_secret() -> str:
    """A key that nobody has."""
    return PREFIX + secrets.token_urlsafe(32)


def mint(
    caller: Caller, scopes: frozenset[Scope] = USUAL_SCOPES, expire_time: float | None = None
) -> tuple[str, StoredKey]:
    """A new key: the secret, to be shown once, and what is kept.

    Raises:
        ValueError: tenant or user is not a name.
    """
    secret = new_secret()
    return secret, stored(secret, caller, scopes, expire_time)


def stored(
    secret: str,
    caller: Caller,
    scopes: frozenset[Scope] = ALL_SCOPES,
    expire_time: float | None = None,
) -> StoredKey:
    """What is kept of a key. Raises: ValueError, see `mint`; also if the secret is not a key."""
    for name, value in (("tenant", caller.tenant), ("user", caller.user)):
        if not NAME.fullmatch(value):
            raise ValueError(f"{name} must be {NAME_LIMIT}")
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"a key is {PREFIX} and 43 of letters, digits, - and _")
    return StoredKey(str(uuid.uuid4()), digest_of(secret), caller, scopes, time.time(), expire_time)


def owner_secret(file: Path) -> str:
    """The key in the file; a new one is written there, readable by its owner alone, if the file is
    not there.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        # Under another name first: a reader never sees half a key.
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.touch(mode=0o600, exist_ok=False)
        draft.write_text(new_secret() + "\n")
        draft.rename(file)
    return file.read_text().strip()


class Keys:
    """Tells who calls. What the store says is believed for a few seconds, so a revocation takes
    that long.
    """

    def __init__(
        self, store: KeyLookup, cache_seconds: float, now: Callable[[], float] = time.time
    ) -> None:
        self._store, self._cache_seconds, self._now = store, cache_seconds, now
        self._cache: OrderedDict[bytes, tuple[float, StoredKey]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[StoredKey | None]] = {}
        self._noting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Wait for running reads and writes, since the store is closed next."""
        await asyncio.gather(*self._asking.values(), *self._noting, return_exceptions=True)

    async def authenticate(self, secret: str) -> Credential:
        """The user of a key.

        Raises:
            UnauthenticatedError: not a key that works; one that did once is told so.
            UnavailableError: the store cannot be asked.
        """
        if not _SECRET.fullmatch(secret):
            raise _refused("the API key is not known", "API_KEY_INVALID")
        digest = digest_of(secret)
        key = self._cached(digest) or await self._ask(digest)
        return _checked(key, digest, self._now())

    async def _ask(self, digest: bytes) -> StoredKey | None:
        """Ask the store once for all calls with the same key that arrive together."""
        if not (asking := self._asking.get(digest)):
            asking = self._asking[digest] = asyncio.create_task(self._find(digest))
            asking.add_done_callback(lambda _: self._asking.pop(digest))
        # A caller who leaves takes nothing from the others.
        return await asyncio.shield(asking)

    async def _find(self, digest: bytes) -> StoredKey | None:
        key = await self._store.find(digest)
        if key is not None:
            self._remember(digest, key)
            self._note(key)
        return key

    def _cached(self, digest: bytes) -> StoredKey | None:
        until, key = self._cache.get(digest, (0.0, None))
        return key if time.monotonic() < until else None

    def _remember(self, digest: bytes, key: StoredKey) -> None:
        self._cache[digest] = (time.monotonic() + self._cache_seconds, key)
        self._cache.move_to_end(digest)
        while len(self._cache) > MAX_CACHED_KEYS:
            self._cache.popitem(last=False)

    def _note(self, key: StoredKey) -> None:
        now = self._now()
        if key.last_use_time is None or now - key.last_use_time >= USE_NOTED_SECONDS:
            # Beside the call: nobody waits for it, and the call does not fail with it.
            task = asyncio.create_task(self._write_use(key.key_id, now))
            self._noting.add(task)
            task.add_done_callback(self._noting.discard)

    async def _write_use(self, key_id: str, now: float) -> None:
        try:
            await self._store.note_use(key_id, now)
        except ServiceError as error:
            log.warning("use of a key not noted", extra=fields(key_id=key_id, reason=error.reason))


def _checked(key: StoredKey | None, digest: bytes, now: float) -> Credential:
    if key is None or not _matches(key, digest, now):
        raise _refused("the API key is not known", "API_KEY_INVALID")
    if key.revoke_time is not None:
        raise _refused("the API key was revoked", "API_KEY_REVOKED")
    if key.expire_time is not None and now >= key.expire_time:
        raise _refused("the API key has expired", "API_KEY_EXPIRED")
    return Credential(key.caller, key.scopes)


def _matches(key: StoredKey, digest: bytes, now: float) -> bool:
    if hmac.compare_digest(key.digest, digest):
        return True
    if (
        key.previous_digest is None
        or key.previous_expire_time is None
        or now >= key.previous_expire_time
    ):
        return False
    return hmac.compare_digest(key.previous_digest, digest)


def _refused(text: str, reason: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        text, reason=reason, field="authorization", limit=f"Bearer {PREFIX}…"
    )
