"""Verification of OpenID tokens: signature, issuer, audience and times.

Verified claims become tenant, user and scopes. The key determines the algorithm, never the token.
Key addresses inside a token (`jku`, `x5u`, `jwk`) are ignored.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jwt

from services.chassis.errors import UnauthenticatedError
from services.chassis.identity import Caller
from services.gateway.identity.authentication import NAME
from services.gateway.identity.credential import Credential, Scope
from services.gateway.identity.issuers import Issuer

MAX_TOKEN_CHARACTERS = 8_192
REQUIRED_CLAIMS = ["exp", "iat", "iss", "aud"]
# Text and reason of a rejection by exception class, looked up along the MRO.
REJECTIONS: Mapping[type[BaseException], tuple[str, str]] = {
    jwt.ExpiredSignatureError: ("the token has expired", "TOKEN_EXPIRED"),
    jwt.ImmatureSignatureError: ("the token is not valid yet", "TOKEN_NOT_YET_VALID"),
    jwt.InvalidAudienceError: ("the token has another audience", "TOKEN_AUDIENCE"),
    jwt.MissingRequiredClaimError: ("the token lacks a claim", "TOKEN_CLAIMS"),
    jwt.PyJWTError: ("the token is not valid", "TOKEN_INVALID"),
}


class KeySource(Protocol):
    """Signing keys of one issuer."""

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """Return the key, or None if the issuer has no such key.

        Raises:
            UnavailableError: The issuer is unavailable.
        """


class OidcVerifier:
    """Implements `authentication.TokenVerifier` for OpenID tokens."""

    def __init__(
        self, issuers: Mapping[str, tuple[Issuer, KeySource]], leeway_seconds: float
    ) -> None:
        self._issuers, self._leeway_seconds = issuers, leeway_seconds

    async def authenticate(self, token: str) -> Credential:
        """Return the credential of a token.

        Raises:
            UnauthenticatedError: The token is invalid now, or has an unknown issuer or audience.
            UnavailableError: The keys of the issuer are unavailable.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise rejected("the token is too long", "TOKEN_INVALID")
        try:
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
            # The issuer must be read before verification, because it selects the keys.
            name = unverified["payload"].get("iss")
            if not isinstance(name, str) or name not in self._issuers:
                raise rejected("the issuer of the token is unknown", "TOKEN_ISSUER")
            issuer, keys = self._issuers[name]
            header = unverified["header"]
            key = await keys.find(header["kid"]) if "kid" in header else None
            if key is None:
                raise rejected("the key of the token is not a key of its issuer", "TOKEN_INVALID")
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(issuer.algorithms),
                audience=issuer.audience,
                issuer=issuer.url,
                leeway=self._leeway_seconds,
                options={"require": REQUIRED_CLAIMS, "enforce_minimum_key_length": True},
            )
        except jwt.PyJWTError as error:
            raise rejected(
                *next(REJECTIONS[kind] for kind in type(error).__mro__ if kind in REJECTIONS)
            ) from error
        tenant = issuer.tenant or claims.get(issuer.tenant_claim)
        if not isinstance(tenant, str) or not (issuer.tenant or tenant in issuer.tenants):
            raise rejected("the token names no tenant of its issuer", "TOKEN_CLAIMS")
        user = claims.get(issuer.user_claim)
        if not isinstance(user, str) or not NAME.fullmatch(user):
            raise rejected("the token has no valid user name", "TOKEN_CLAIMS")
        return Credential(Caller(tenant, user), _scopes(issuer, claims))


def rejected(text: str, reason: str) -> UnauthenticatedError:
    """Return the error for a rejected token."""
    return UnauthenticatedError(
        text, reason=reason, field="authorization", limit="a valid token of a known issuer"
    )


def _scopes(issuer: Issuer, claims: Mapping[str, Any]) -> frozenset[Scope]:
    """Return the scopes of a token. The claim is a list or, as in OAuth, a text of words."""
    said = claims.get(issuer.scope_claim, ()) if issuer.scope_claim else ()
    values = said.split() if isinstance(said, str) else said if isinstance(said, list) else ()
    named = [
        issuer.scopes_by_value.get(value, frozenset()) for value in values if isinstance(value, str)
    ]
    return issuer.scopes.union(*named)
