"""Sessions of the page: an encrypted cookie in place of the API key, protected against CSRF.

The cookie contains the hash of the API key or the token of an issuer, which are checked on every
request, so a session ends with its key or token. Replicas derive the same keys from the same
secrets, of which the first is used for new sessions.
"""

import base64
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from starlette.requests import Request
from starlette.responses import Response

from services.chassis.errors import (
    InvalidArgumentError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from services.gateway.identity.authentication import Authenticator, proof_of
from services.gateway.identity.credential import Credential

CSRF_HEADER = "x-tw-csrf"
SAFE_METHODS = frozenset({"GET", "HEAD"})
# Browsers accept 4,096 bytes of name and value. Fernet adds 57 bytes and a third of the whole.
MAX_PROOF_CHARACTERS = 2_900


@dataclass(frozen=True)
class CookieRules:
    """Lifetime of a session, and whether browsers send its cookie over TLS only."""

    max_age_seconds: int
    secure: bool

    @property
    def name(self) -> str:
        """Return the name. With the prefix, browsers refuse cookies set by other hosts."""
        return "__Host-tw_session" if self.secure else "tw_session"


class PageSessions:
    """Creates, checks and removes sessions.

    Args:
        authenticator: checks the key or token of a session.
        secrets: the first encrypts new sessions; sessions of the others are accepted.
        rules: of the cookie.
    """

    def __init__(
        self, authenticator: Authenticator, secrets: Sequence[str], rules: CookieRules
    ) -> None:
        self._authenticator, self._rules = authenticator, rules
        self._cipher = MultiFernet(
            Fernet(base64.urlsafe_b64encode(_derive(secret, b"page session cookie")))
            for secret in secrets
        )
        self._csrf_keys = [_derive(secret, b"page session csrf") for secret in secrets]

    def cookie(self, request: Request) -> str:
        """Return the value of the session cookie, or an empty text."""
        return request.cookies.get(self._rules.name, "")

    async def authenticate(self, request: Request) -> Credential:
        """Return the credential of the request's session.

        Raises:
            PermissionDeniedError: The request comes from another site, or lacks the CSRF token.
            UnauthenticatedError: The session, or its key or token, is invalid or has expired.
            UnavailableError: The key store or the issuer is unavailable.
        """
        cookie = self.cookie(request)
        _check_origin(request)
        try:
            proof = self._cipher.decrypt(cookie, ttl=self._rules.max_age_seconds).decode()
        except InvalidToken as error:
            raise UnauthenticatedError(
                "the session is not valid or has expired",
                reason="SESSION_INVALID",
                field="cookie",
                limit=f"a session of at most {self._rules.max_age_seconds} s; sign in again",
            ) from error
        token = request.headers.get(CSRF_HEADER, "")
        # During a rotation, open pages have tokens of the previous secret.
        is_token_valid = any(
            hmac.compare_digest(token.encode(), _csrf_token(key, cookie).encode())
            for key in self._csrf_keys
        )
        if request.method not in SAFE_METHODS and not is_token_valid:
            raise PermissionDeniedError(
                "the request lacks the CSRF token of its session",
                reason="CSRF_TOKEN_INVALID",
                field=CSRF_HEADER,
                limit="csrfToken of GET /api/account",
            )
        return await self._authenticator.authenticate_proof(proof)

    def csrf_token(self, cookie: str) -> str:
        """Return the CSRF token of a session, from which the cookie cannot be computed."""
        return _csrf_token(self._csrf_keys[0], cookie)

    def start(self, authorization: str, response: Callable[[str], Response]) -> Response:
        """Return the response, made from the CSRF token, with the cookie of a new session.

        Raises:
            InvalidArgumentError: The token is too long for a cookie.
        """
        proof = proof_of(authorization)
        if len(proof) > MAX_PROOF_CHARACTERS:
            raise InvalidArgumentError(
                "the token is too long for a session",
                reason="TOKEN_TOO_LONG",
                field="authorization",
                limit=f"a key, or a token of at most {MAX_PROOF_CHARACTERS - 6} characters",
            )
        cookie = self._cipher.encrypt(proof.encode()).decode()
        answer = response(self.csrf_token(cookie))
        self._set_cookie(answer, cookie, self._rules.max_age_seconds)
        return answer

    def end(self, response: Response) -> None:
        """Remove the cookie from the browser."""
        self._set_cookie(response, "", 0)

    def _set_cookie(self, response: Response, value: str, max_age_seconds: int) -> None:
        response.set_cookie(
            self._rules.name,
            value,
            max_age=max_age_seconds,
            path="/",
            secure=self._rules.secure,
            httponly=True,
            samesite="strict",
        )


def _check_origin(request: Request) -> None:
    """Refuse requests that another origin caused, including other ports of the same host.

    Browsers send Sec-Fetch-Site to HTTPS and loopback addresses only. `none` is a typed address.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        is_own = site == "same-origin" or (site == "none" and request.method in SAFE_METHODS)
    else:
        is_own = origin is None or urlsplit(origin).netloc == request.headers.get("host", "")
    if not is_own:
        raise PermissionDeniedError(
            "a session is valid for requests of the page only",
            reason="CROSS_SITE_REQUEST",
            field="origin" if site is None else "sec-fetch-site",
            limit="the origin of the page",
        )


def _csrf_token(key: bytes, cookie: str) -> str:
    return hmac.digest(key, cookie.encode(), "sha256").hex()


def _derive(secret: str, purpose: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=None, info=purpose).derive(secret.encode())
