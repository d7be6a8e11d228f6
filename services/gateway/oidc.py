"""Bearer tokens of OpenID issuers: signature, issuer, audience and times are checked, then claims
become tenant, user and scopes.

The algorithm is the key's, never the token's choice; a token's own addresses of keys (`jku`, `x5u`,
`jwk`) are not looked at.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jwt

from services.chassis.errors import UnauthenticatedError
from services.chassis.identity import Caller
from services.gateway.credential import Credential, Scope
from services.gateway.issuers import Issuer
from services.gateway.keys import NAME

MAX_TOKEN_CHARACTERS = 8_192
REQUIRED_CLAIMS = ["exp", "iat", "iss", "aud"]
# What a refusal says, by the library's exception; looked up along the MRO.
REFUSALS: Mapping[type[BaseException], tuple[str, str]] = {
    jwt.ExpiredSignatureError: ("the token has expired", "TOKEN_EXPIRED"),
    jwt.ImmatureSignatureError: ("the token is not valid yet", "TOKEN_NOT_YET_VALID"),
    jwt.InvalidAudienceError: ("the token is meant for another audience", "TOKEN_AUDIENCE"),
    jwt.MissingRequiredClaimError: ("the token lacks a claim", "TOKEN_CLAIMS"),
    jwt.PyJWTError: ("the token is not valid", "TOKEN_INVALID"),
}


class FindsKeys(Protocol):
    """The keys of one issuer."""

    async def find(self, key_id: str) -> jwt.PyJWK | None:
        """None: there is no such key. Raises: UnavailableError."""


class Oidc:
    """See `bearer.Tokens`."""

    def __init__(
        self, issuers: Mapping[str, tuple[Issuer, FindsKeys]], leeway_seconds: float
    ) -> None:
        self._issuers, self._leeway_seconds = issuers, leeway_seconds

    async def authenticate(self, token: str) -> Credential:
        """The user of a token.

        Raises:
            UnauthenticatedError: not a token that is valid now, of an issuer and for an audience
                that we know.
            UnavailableError: the issuer's keys cannot be had.
        """
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise refused("the token is too long", "TOKEN_INVALID")
        try:
            unverified = jwt.decode_complete(token, options={"verify_signature": False})
            issuer, keys = self._issuer(unverified["payload"])
            claims = await self._verified(token, unverified["header"], issuer, keys)
        except jwt.PyJWTError as error:
            raise refused(
                *next(REFUSALS[kind] for kind in type(error).__mro__ if kind in REFUSALS)
            ) from error
        return Credential(
            Caller(_tenant(issuer, claims), _user(issuer, claims)), _scopes(issuer, claims)
        )

    def _issuer(self, claims: Mapping[str, Any]) -> tuple[Issuer, FindsKeys]:
        name = claims.get("iss")
        found = self._issuers.get(name) if isinstance(name, str) else None
        if found is None:
            raise refused("the token's issuer is not known here", "TOKEN_ISSUER")
        return found

    async def _verified(
        self, token: str, header: Mapping[str, Any], issuer: Issuer, keys: FindsKeys
    ) -> Mapping[str, Any]:
        key = await keys.find(header["kid"]) if "kid" in header else None
        if key is None:
            raise refused("the token's key is not one of its issuer's", "TOKEN_INVALID")
        claims: Mapping[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(issuer.algorithms),
            audience=issuer.audience,
            issuer=issuer.url,
            leeway=self._leeway_seconds,
            options={"require": REQUIRED_CLAIMS, "enforce_minimum_key_length": True},
        )
        return claims


def refused(text: str, reason: str) -> UnauthenticatedError:
    """The error for a token."""
    return UnauthenticatedError(
        text, reason=reason, field="authorization", limit="a valid token of a known issuer"
    )


def _tenant(issuer: Issuer, claims: Mapping[str, Any]) -> str:
    if issuer.tenant:
        return issuer.tenant
    named = claims.get(issuer.tenant_claim)
    if not isinstance(named, str) or named not in issuer.tenants:
        raise refused("the token names no tenant that its issuer may speak for", "TOKEN_CLAIMS")
    return named


def _user(issuer: Issuer, claims: Mapping[str, Any]) -> str:
    named = claims.get(issuer.user_claim)
    if not isinstance(named, str) or not NAME.fullmatch(named):
        raise refused("the token names no user in a form that is used here", "TOKEN_CLAIMS")
    return named


def _scopes(issuer: Issuer, claims: Mapping[str, Any]) -> frozenset[Scope]:
    """A claim is a list of texts, or one text of words, as OAuth writes `scope`."""
    said = claims.get(issuer.scope_claim, ()) if issuer.scope_claim else ()
    values = said.split() if isinstance(said, str) else said if isinstance(said, list) else ()
    named = [
        issuer.scopes_by_value.get(value, frozenset()) for value in values if isinstance(value, str)
    ]
    return issuer.scopes.union(*named)
