"""Client of an OpenID issuer: discovery document and published keys, with size and time limits."""

import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from jwt import PyJWK, PyJWTError

from services.chassis.errors import UnavailableError
from services.gateway.identity.issuers import is_safe_url

DISCOVERY = "/.well-known/openid-configuration"
MAX_BYTES = 256 * 1024
MAX_KEYS = 100
RETRY_SECONDS = 5.0
# Public-key algorithms only. With a symmetric algorithm the public key could be used to sign.
ALGORITHM_BY_KIND = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}


class IssuerPeer:
    """Fetches over HTTPS. Redirects may lead into the internal network and are not followed."""

    def __init__(self, http: aiohttp.ClientSession, issuer: str, within_seconds: float) -> None:
        self._http, self._issuer = http, issuer
        self._timeout = aiohttp.ClientTimeout(total=within_seconds)

    async def signing_keys(self) -> Mapping[str, PyJWK]:
        """Return the usable keys by id.

        Raises:
            UnavailableError: The issuer is unavailable or its documents are invalid.
        """
        try:
            discovery = await self._get(self._issuer.rstrip("/") + DISCOVERY)
            if discovery.get("issuer") != self._issuer:
                raise ValueError("the discovery document has another issuer")
            keys_url = discovery.get("jwks_uri")
            if not isinstance(keys_url, str) or not is_safe_url(keys_url):
                raise ValueError("jwks_uri is missing or not a safe URL")
            entries = (await self._get(keys_url)).get("keys")
            if not isinstance(entries, list):
                raise ValueError("the document has no list of keys")
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError) as error:
            raise UnavailableError(
                "the issuer of the token is unavailable or its documents are invalid",
                reason="ISSUER_UNAVAILABLE",
                retry_seconds=RETRY_SECONDS,
            ) from error
        return {key_id: key for key_id, key in map(_usable, entries[:MAX_KEYS]) if key}

    async def _get(self, url: str) -> dict[str, Any]:
        body = b""
        async with self._http.get(url, timeout=self._timeout, allow_redirects=False) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_BYTES:
                    raise ValueError("too long")
        value = json.loads(body)
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value


def _usable(entry: Any) -> tuple[str, PyJWK | None]:
    if not isinstance(entry, dict):
        return "", None
    key_id, kind, curve = entry.get("kid"), entry.get("kty"), entry.get("crv")
    if (
        not isinstance(key_id, str)
        or not isinstance(kind, str)
        or not isinstance(curve, str | None)
    ):
        return "", None
    algorithm = ALGORITHM_BY_KIND.get((kind, curve))
    if (
        algorithm is None
        or entry.get("alg", algorithm) != algorithm
        or entry.get("use", "sig") != "sig"
    ):
        return "", None
    try:
        return key_id, PyJWK(entry, algorithm)
    except PyJWTError:
        # A broken key must not hide the others.
        return "", None
