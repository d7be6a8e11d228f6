"""Signed identity between services: a token in each call names its caller, method and user.

The token is a JWT, signed with the caller's Ed25519 key (RFC 8037). Receivers have public keys
only. A token is valid for its method, tenant and user until its expiry, at most TOKEN_SECONDS; it
may be sent several times, because retries repeat it and signing for each call would cost more.

Changed key files are read again, without a restart.
"""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import jwt
from prometheus_client import Counter

from services.chassis.errors import SIGNED_CALL_REASONS, UnauthenticatedError
from services.chassis.identity import Caller, caller_from
from services.chassis.identity_keys import (
    IdentityKeyError,
    key_id_of,
    public_key_files,
    read_private_key,
    read_public_keys,
)
from services.chassis.telemetry import fields

log = logging.getLogger(__name__)

IDENTITY_KEY = "x-tw-identity"
ALGORITHM = "EdDSA"
TOKEN_SECONDS = 60
# A token is used for this time, so that 40 s remain for the call to arrive and for retries.
REUSE_SECONDS = 20
# Permitted lag of the receiver's clock.
LEEWAY_SECONDS = 30
CHECK_INTERVAL_SECONDS = 1.0
# Tokens that a signer or a verifier remembers; a turn of a user needs about ten.
MAX_TOKENS = 8_192

TOKEN_ERRORS = Counter(
    "thumbwheel_service_token_errors_total",
    "Calls between services without a valid token, by reason; MISSING includes accepted calls.",
    ["reason"],
)

Metadata = Iterable[tuple[str, str | bytes]]
T = TypeVar("T")


class ServiceTokenError(UnauthenticatedError):
    """A call of a service without a valid token; the reason is SERVICE_TOKEN_…"""


class _Reloaded(Generic[T]):
    """Value read from files, and again after a change of a file.

    Raises:
        IdentityKeyError: the first read failed. Later failures keep the previous value.
    """

    def __init__(
        self, place: Path, files: Callable[[], Sequence[Path]], read: Callable[[], T]
    ) -> None:
        self._place, self._files, self._read = place, files, read
        self._versions = self._file_versions()
        self.value = read()
        self._next_check = time.monotonic() + CHECK_INTERVAL_SECONDS

    def is_changed(self) -> bool:
        """Read changed files, at most once in CHECK_INTERVAL_SECONDS."""
        if time.monotonic() < self._next_check:
            return False
        self._next_check = time.monotonic() + CHECK_INTERVAL_SECONDS
        try:
            if (versions := self._file_versions()) == self._versions:
                return False
            self.value = self._read()
        except IdentityKeyError:
            # Expected while files are being replaced.
            log.warning("identity keys not usable", extra=fields(file=str(self._place)))
            return False
        self._versions = versions
        log.info("identity keys read", extra=fields(file=str(self._place)))
        return True

    def _file_versions(self) -> Sequence[tuple[str, int, int]]:
        try:
            statuses = [(file.name, file.stat()) for file in self._files()]
        except OSError as error:
            raise IdentityKeyError(
                f"{self._place} is not usable: {error.strerror}", field=str(self._place)
            ) from error
        return [(name, status.st_mtime_ns, status.st_ino) for name, status in statuses]


class TokenSigner:
    """Signer of the calls of a service.

    Args:
        caller: name of the service, as in the receivers' rules.
        file: private key of the service.

    Raises:
        IdentityKeyError: the file is unusable.
    """

    def __init__(self, caller: str, file: Path) -> None:
        self._caller = caller
        self._key = _Reloaded(file, lambda: (file,), lambda: read_private_key(file))
        self._tokens: dict[tuple[str, Caller], tuple[str, float]] = {}

    def token(self, method: str, caller: Caller) -> str:
        """Return a token for calls of `/package.Service/Method` on behalf of a user."""
        if self._key.is_changed() or len(self._tokens) >= MAX_TOKENS:
            self._tokens.clear()
        now = time.time()
        token, signed = self._tokens.get((method, caller), ("", 0.0))
        if not signed <= now < signed + REUSE_SECONDS:
            claims = {
                "iss": self._caller,
                "exp": int(now) + TOKEN_SECONDS,
                "method": method,
                "tenant": caller.tenant,
                "user": caller.user,
            }
            key = self._key.value
            headers = {"kid": key_id_of(key.public_key())}
            token = jwt.encode(claims, key, algorithm=ALGORITHM, headers=headers)
            self._tokens[(method, caller)] = token, now
        return token


class TokenVerifier:
    """Verifier of the tokens in received calls.

    Args:
        folder: public keys of the callers, see `identity_keys`.
        required: refuse calls without a token. Invalid tokens are always refused.

    Raises:
        IdentityKeyError: a key is unusable, or the folder has no keys.
    """

    def __init__(self, folder: Path, *, required: bool) -> None:
        self._required = required
        self._keys = _Reloaded(
            folder, lambda: public_key_files(folder), lambda: read_public_keys(folder)
        )
        # Claims of verified tokens: a token arrives several times, and a verification takes 0.2 ms.
        self._verified: dict[str, dict[str, Any]] = {}

    def verify(self, method: str, caller: Caller, metadata: Metadata) -> str:
        """Return the signing service of the call.

        Args:
            method: path of the called method.
            caller: tenant and user in the metadata of the call.

        Returns "" for a call without a token, if tokens are not required.

        Raises:
            ServiceTokenError: the token is missing, invalid, expired, or for another method, tenant
                or user.
        """
        if self._keys.is_changed() or len(self._verified) >= MAX_TOKENS:
            self._verified.clear()
        tokens = [value for key, value in metadata if key == IDENTITY_KEY]
        if not tokens:
            error = _refusal("MISSING", "the call has no token of a service")
            if self._required:
                raise error
            return ""
        # With two tokens, the token checked by a proxy would be ambiguous.
        token = tokens[0] if len(tokens) == 1 and isinstance(tokens[0], str) else ""
        if (claims := self._verified.get(token)) is None:
            claims = self._verified[token] = self._claims(token)
        now = time.time()
        if claims["exp"] <= now:
            del self._verified[token]
            raise _refusal("EXPIRED", "the token of the calling service has expired")
        if claims["exp"] > now + TOKEN_SECONDS + LEEWAY_SECONDS:
            raise _refusal("EXPIRED", f"the token is valid for more than {TOKEN_SECONDS} s")
        if (claims["method"], claims["tenant"], claims["user"]) != (
            method,
            caller.tenant,
            caller.user,
        ):
            raise _refusal("MISMATCH", "the token is for another method, tenant or user")
        return str(claims["iss"])

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            entry = self._keys.value.get(jwt.get_unverified_header(token).get("kid", ""))
            if entry is None:
                raise _refusal("UNKNOWN_KEY", "the key of the token is unknown")
            # Signature and form; the expiry is compared at each call.
            claims: dict[str, Any] = jwt.decode(
                token,
                entry.key,
                algorithms=[ALGORITHM],
                issuer=entry.caller,
                options={
                    "require": ["exp", "iss", "method", "tenant", "user"],
                    "verify_exp": False,
                },
            )
            if not isinstance(claims["exp"], int):
                raise jwt.DecodeError("exp is not a number of seconds")
            return claims
        except jwt.InvalidTokenError as error:
            raise _refusal("INVALID", "the token of the calling service is invalid") from error


class SigningChannel:
    """Channel for stubs with a token in each call."""

    def __init__(self, channel: Any, signer: TokenSigner) -> None:
        self._channel, self._signer = channel, signer

    async def __aenter__(self) -> "SigningChannel":
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._channel.__aexit__(*error)

    def unary_unary(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Create a unary call as `grpc.aio.Channel.unary_unary`."""
        return self._signed(method, self._channel.unary_unary(method, *arguments, **named))

    def unary_stream(self, method: str, *arguments: Any, **named: Any) -> Any:
        """Create a streaming call as `grpc.aio.Channel.unary_stream`."""
        return self._signed(method, self._channel.unary_stream(method, *arguments, **named))

    def _signed(self, method: str, call: Any) -> Any:
        def signed(*arguments: Any, metadata: Any = (), **named: Any) -> Any:
            # The token names what the metadata names, so that both agree at the receiver.
            token = self._signer.token(method, caller_from(metadata)[0])
            return call(*arguments, metadata=(*metadata, (IDENTITY_KEY, token)), **named)

        return signed


def _refusal(reason: str, text: str) -> ServiceTokenError:
    TOKEN_ERRORS.labels(reason).inc()
    return ServiceTokenError(text, reason=SIGNED_CALL_REASONS + reason, field=IDENTITY_KEY)
