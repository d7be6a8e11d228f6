"""Authentication of callers. API keys and tokens of issuers use the same header.

An API key is `tw_` and 256 random bits. Only its SHA-256 is stored. A plain hash is sufficient,
because random keys cannot be guessed from a dictionary.
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from cachetools import LRUCache, TTLCache

from durable_files.files import write_file
from services.chassis.errors import ServiceError, UnauthenticatedError, UnavailableError
from services.chassis.identity import Caller
from services.chassis.telemetry import fields
from services.gateway.identity.credential import ALL_SCOPES, DEFAULT_SCOPES, Credential, Scope
from services.gateway.metrics import REJECTED_CREDENTIALS

log = logging.getLogger(__name__)

PREFIX = "tw_"
_SECRET = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
# Without a slash, because tenant and user are joined by a slash.
NAME = re.compile(r"[A-Za-z0-9._@+|:-]{1,64}")
NAME_LIMIT = "1 to 64 of letters, digits and ._@+|:-"
MAX_CACHED_KEYS = 10_000
# Keys without a known digest, in the queue for a query. Each is an unauthenticated call, or the
# first call with a key that is new or was not used for long.
MAX_WAITING_UNKNOWN = 200
# Last use is recorded for administrators. A precision of one hour is sufficient and costs one write
# per hour.
USE_RECORD_SECONDS = 3600.0
OWNER = Caller("default", "owner")


@dataclass(frozen=True)
class StoredKey:
    """Stored data of a key. Times are Unix seconds; None means never.

    After a rotation, `previous_digest` is the hash of the previous secret. The previous secret
    works until `previous_expire_time`.
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
    """Key store, as far as authentication needs it."""

    async def find(self, digest: bytes) -> StoredKey | None:
        """Return the key with this hash, current or previous."""

    async def recent_digests(self, most: int) -> Sequence[bytes]:
        """Return the current and previous hashes of the `most` keys last used, latest first.

        Unused keys count from their creation; revoked keys are omitted.
        """

    async def record_use(self, key_id: str, use_time: float) -> None:
        """Record the time of use."""


def digest_of(secret: str) -> bytes:
    """Return the SHA-256 of a key."""
    return hashlib.sha256(secret.encode()).digest()


def new_secret() -> str:
    """Return a new random key."""
    return PREFIX + secrets.token_urlsafe(32)


def mint(
    caller: Caller, scopes: frozenset[Scope] = DEFAULT_SCOPES, expire_time: float | None = None
) -> tuple[str, StoredKey]:
    """Create a key.

    Returns:
        The secret, to be shown once, and the data to store.

    Raises:
        ValueError: Tenant or user is not a valid name.
    """
    secret = new_secret()
    return secret, stored_key(secret, caller, scopes, expire_time)


def stored_key(
    secret: str,
    caller: Caller,
    scopes: frozenset[Scope] = ALL_SCOPES,
    expire_time: float | None = None,
) -> StoredKey:
    """Return the data to store for a secret.

    Raises:
        ValueError: Tenant or user is not a valid name, or the secret is not a key.
    """
    for name, value in (("tenant", caller.tenant), ("user", caller.user)):
        if not NAME.fullmatch(value):
            raise ValueError(f"{name} must be {NAME_LIMIT}")
    if not _SECRET.fullmatch(secret):
        raise ValueError(f"a key is {PREFIX} and 43 of letters, digits, - and _")
    return StoredKey(str(uuid.uuid4()), digest_of(secret), caller, scopes, time.time(), expire_time)


def owner_secret(file: Path) -> str:
    """Return the key in the file. A missing file is created, readable by its owner only."""
    if not file.exists():
        write_file(file, f"{new_secret()}\n".encode(), mode=0o600)
    return file.read_text().strip()


class ApiKeys:
    """Authenticates callers by API key.

    Results are cached for a few seconds, so a revocation takes effect after the same time. Queries
    for digests that were never found are limited, so that invented keys leave connections of the
    database for the keys in use. At the start of the block the digests of the keys in use are read,
    since their calls would otherwise queue behind invented keys after a restart.
    """

    def __init__(
        self,
        store: KeyLookup,
        cache_seconds: float,
        now: Callable[[], float] = time.time,
        *,
        unknown_lookups: int = 2,
    ) -> None:
        """Create the cache.

        Args:
            store: Key store.
            cache_seconds: Time for which a result is cached.
            now: Clock in Unix seconds.
            unknown_lookups: Maximum of concurrent queries for unknown digests.
        """
        self._store, self._now = store, now
        self._cache: TTLCache[bytes, StoredKey] = TTLCache(
            MAX_CACHED_KEYS, cache_seconds, time.monotonic
        )
        # Separate from the keys, or invented keys would evict real ones.
        self._unknown: TTLCache[bytes, None] = TTLCache(
            MAX_CACHED_KEYS, cache_seconds, time.monotonic
        )
        # Digests that were found before, two per key; their cached keys may have expired.
        self._found: LRUCache[bytes, None] = LRUCache(2 * MAX_CACHED_KEYS)
        self._unknown_lookups = asyncio.Semaphore(unknown_lookups)
        self._waiting_unknown = 0
        self._lookups: dict[bytes, asyncio.Task[StoredKey | None]] = {}
        self._use_writes: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        # The latest last, because the cache evicts the earliest.
        for digest in reversed(await self._store.recent_digests(MAX_CACHED_KEYS)):
            self._found[digest] = None
        return self

    async def __aexit__(self, *error: object) -> None:
        """Wait for running reads and writes before the store is closed."""
        await asyncio.gather(*self._lookups.values(), *self._use_writes, return_exceptions=True)

    async def authenticate(self, secret: str) -> Credential:
        """Return the credential of a key.

        Raises:
            UnauthenticatedError: The key is unknown, revoked or expired. The reason differs.
            UnavailableError: The store is unavailable, or checks too many unknown keys.
        """
        if not _SECRET.fullmatch(secret):
            raise _refused("the API key is not known", "API_KEY_INVALID")
        return await self.authenticate_digest(digest_of(secret))

    async def authenticate_digest(self, digest: bytes) -> Credential:
        """Return the credential of the key with this hash.

        Raises:
            UnauthenticatedError: See `authenticate`.
            UnavailableError: See `authenticate`.
        """
        key = self._cache.get(digest)
        if key is None and digest not in self._unknown:
            # One query serves all concurrent calls with the same key.
            if not (lookup := self._lookups.get(digest)):
                lookup = self._lookups[digest] = asyncio.create_task(self._find(digest))
                lookup.add_done_callback(lambda _: self._lookups.pop(digest))
            # Shielded, because cancelling one caller must not cancel the query of the others.
            key = await asyncio.shield(lookup)
        now = self._now()
        # Expiry is checked on every call, since a cached key may expire in the meantime.
        if key is None:
            raise _refused("the API key is not known", "API_KEY_INVALID")
        # A rotated key has a previous secret for a while.
        is_previous_valid = (
            key.previous_digest is not None
            and key.previous_expire_time is not None
            and now < key.previous_expire_time
            and hmac.compare_digest(key.previous_digest, digest)
        )
        if not hmac.compare_digest(key.digest, digest) and not is_previous_valid:
            raise _refused("the API key is not known", "API_KEY_INVALID")
        if key.revoke_time is not None:
            raise _refused("the API key was revoked", "API_KEY_REVOKED")
        if key.expire_time is not None and now >= key.expire_time:
            raise _refused("the API key has expired", "API_KEY_EXPIRED")
        return Credential(key.caller, key.scopes)

    async def _find(self, digest: bytes) -> StoredKey | None:
        key = await self._query(digest)
        if key is None:
            self._unknown[digest] = None
        else:
            self._cache[digest] = key
            self._found[digest] = None
            now = self._now()
            if key.last_use_time is None or now - key.last_use_time >= USE_RECORD_SECONDS:
                # Written in the background. A failed write does not fail the call.
                task = asyncio.create_task(self._write_use(key.key_id, now))
                self._use_writes.add(task)
                task.add_done_callback(self._use_writes.discard)
        return key

    async def _query(self, digest: bytes) -> StoredKey | None:
        if digest in self._found:
            return await self._store.find(digest)
        if self._waiting_unknown >= MAX_WAITING_UNKNOWN:
            raise UnavailableError(
                "too many unknown keys are being checked",
                reason="TOO_MANY_UNKNOWN_KEYS",
                limit=f"{MAX_WAITING_UNKNOWN} at once",
                retry_seconds=1,
            )
        self._waiting_unknown += 1
        try:
            async with self._unknown_lookups:
                return await self._store.find(digest)
        finally:
            self._waiting_unknown -= 1

    async def _write_use(self, key_id: str, now: float) -> None:
        try:
            await self._store.record_use(key_id, now)
        except ServiceError as error:
            log.warning("key use not recorded", extra=fields(key_id=key_id, reason=error.reason))


def _refused(text: str, reason: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        text, reason=reason, field="authorization", limit=f"Bearer {PREFIX}…"
    )


class TokenVerifier(Protocol):
    """Verifies tokens of identity providers."""

    async def authenticate(self, token: str) -> Credential:
        """Return the credential of a token.

        Raises:
            UnauthenticatedError: The token is invalid.
            UnavailableError: The keys of the issuer are unavailable.
        """


# Kinds of proofs: the hash of a key, or a token.
KEY_PROOF, TOKEN_PROOF = "key", "token"


def proof_of(authorization: str) -> str:
    """Return the text that a session retains of a header: the hash of a key, or a whole token."""
    bearer = authorization.partition(" ")[2]
    if bearer.startswith(PREFIX):
        return f"{KEY_PROOF}:{digest_of(bearer).hex()}"
    return f"{TOKEN_PROOF}:{bearer}"


class Authenticator:
    """Authenticates callers by API key or token."""

    def __init__(self, keys: ApiKeys, tokens: TokenVerifier | None) -> None:
        self._keys, self._tokens = keys, tokens

    async def authenticate(self, authorization: str) -> Credential:
        """Return the credential of a `Bearer` key or token.

        Raises:
            UnauthenticatedError: The header is missing, or the key or token is invalid.
            UnavailableError: The key store or the issuer is unavailable.
        """
        scheme, _, bearer = authorization.partition(" ")
        with _rejections_counted():
            if scheme.lower() != "bearer":
                raise _refused("the call has no API key", "API_KEY_MISSING")
            if self._tokens and not bearer.startswith(PREFIX):
                return await self._tokens.authenticate(bearer)
            return await self._keys.authenticate(bearer)

    async def authenticate_proof(self, proof: str) -> Credential:
        """Return the credential of a proof created by `proof_of`.

        Raises:
            UnauthenticatedError: The key or token is no longer valid.
            UnavailableError: The key store or the issuer is unavailable.
        """
        kind, _, value = proof.partition(":")
        with _rejections_counted():
            if kind == KEY_PROOF:
                return await self._keys.authenticate_digest(bytes.fromhex(value))
            if self._tokens is None:
                raise _refused("no issuer of tokens is configured", "TOKEN_ISSUER")
            return await self._tokens.authenticate(value)


@contextmanager
def _rejections_counted() -> Iterator[None]:
    try:
        yield
    except ServiceError as error:
        REJECTED_CREDENTIALS.labels(error.reason).inc()
        raise
