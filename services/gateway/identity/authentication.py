"""Authentication of all calls. API keys and tokens of issuers use the same header."""

from typing import Protocol

from services.chassis.errors import ServiceError, UnauthenticatedError
from services.gateway.identity.credential import Credential
from services.gateway.identity.keys import PREFIX, ApiKeys
from services.gateway.metrics import REJECTED_CREDENTIALS


class TokenVerifier(Protocol):
    """Verifies tokens of identity providers."""

    async def authenticate(self, token: str) -> Credential:
        """Return the credential of a token.

        Raises:
            UnauthenticatedError: The token is invalid.
            UnavailableError: The keys of the issuer are unavailable.
        """


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
        try:
            if scheme.lower() != "bearer":
                raise UnauthenticatedError(
                    "the call has no API key",
                    reason="API_KEY_MISSING",
                    field="authorization",
                    limit=f"Bearer {PREFIX}…",
                )
            if self._tokens and not bearer.startswith(PREFIX):
                return await self._tokens.authenticate(bearer)
            return await self._keys.authenticate(bearer)
        except ServiceError as error:
            REJECTED_CREDENTIALS.labels(error.reason).inc()
            raise
