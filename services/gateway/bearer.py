"""The one way in for those who carry something: API keys and issuers' tokens come in the same
header.
"""

from typing import Protocol

from services.chassis.errors import ServiceError, UnauthenticatedError
from services.gateway.credential import Credential
from services.gateway.keys import PREFIX, Keys
from services.gateway.metrics import REFUSED_BEARERS


class Tokens(Protocol):
    """Whatever can tell a token's user."""

    async def authenticate(self, token: str) -> Credential:
        """Raises: UnauthenticatedError, UnavailableError."""


class Bearers:
    """Tells who calls."""

    def __init__(self, keys: Keys, tokens: Tokens | None) -> None:
        self._keys, self._tokens = keys, tokens

    async def authenticate(self, authorization: str) -> Credential:
        """The user of a `Bearer` key or token.

        Raises:
            UnauthenticatedError: nothing carried, or nothing that works.
            UnavailableError: who could tell is away.
        """
        try:
            return await self._authenticate(authorization)
        except ServiceError as error:
            REFUSED_BEARERS.labels(error.reason).inc()
            raise

    async def _authenticate(self, authorization: str) -> Credential:
        scheme, _, bearer = authorization.partition(" ")
        if not authorization or scheme.lower() != "bearer":
            raise UnauthenticatedError(
                "the call carries no API key",
                reason="API_KEY_MISSING",
                field="authorization",
                limit=f"Bearer {PREFIX}…",
            )
        if self._tokens and not bearer.startswith(PREFIX):
            return await self._tokens.authenticate(bearer)
        return await self._keys.authenticate(bearer)
