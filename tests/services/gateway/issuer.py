"""A small OpenID issuer on loopback, with changing keys, arbitrary claims, delays and faults."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

AUDIENCE = "thumbwheel"
# Generating a key takes 0.1 s and more, so all tests share one.
RSA_KEY = rsa.generate_private_key(65_537, 2_048)


class Issuer:
    """OpenID issuer that counts its requests."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, tuple[str, Any]] = {}
        self.extra_entries: list[Any] = []
        self.discovery: dict[str, Any] = {}
        self.keys_host = "127.0.0.1"
        self.status, self.delay_seconds = 200, 0.0
        self.fetches = 0
        self.other_requests: list[str] = []

    def add_key(self, key_id: str, algorithm: str) -> None:
        """Add a new key pair."""
        match algorithm:
            case "RS256":
                key: Any = RSA_KEY
            case "ES256":
                key = ec.generate_private_key(ec.SECP256R1())
            case _:
                key = ed25519.Ed25519PrivateKey.generate()
        self.keys[key_id] = (algorithm, key)

    def token(
        self, key_id: str = "first", *, header: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """Return a valid token with changed claims. A claim of None is omitted."""
        algorithm, key = self.keys[key_id]
        headers = {"kid": key_id, **(header or {})}
        return jwt.encode(self.claims(**claims), key, algorithm, headers)

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = time.time()
        right = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "nbf": now,
            "exp": now + 60,
        }
        return {name: value for name, value in (right | changes).items() if value is not None}

    def entries(self) -> list[Any]:
        """Return the public keys as JSON Web Keys."""
        algorithms = get_default_algorithms()
        found: list[Any] = list(self.extra_entries)
        for key_id, (algorithm, key) in self.keys.items():
            entry = json.loads(algorithms[algorithm].to_jwk(key.public_key()))
            found.append({**entry, "kid": key_id, "alg": algorithm, "use": "sig"})
        return found

    async def answer(self, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(self.delay_seconds)
        match request.path:
            case "/.well-known/openid-configuration":
                self.fetches += 1
                body = {
                    "issuer": self.url,
                    "jwks_uri": f"{self.url.replace('127.0.0.1', self.keys_host)}/keys",
                    **self.discovery,
                }
            case "/keys":
                body = {"keys": self.entries()}
            case path:
                self.other_requests.append(path)
                return web.Response(status=404)
        if self.status != 200:
            return web.Response(status=self.status, headers={"location": f"{self.url}/elsewhere"})
        return web.json_response(body)


@asynccontextmanager
async def running_issuer() -> AsyncIterator[Issuer]:
    """Serve the issuer until the end of the block."""
    issuer = Issuer()
    issuer.add_key("first", "ES256")
    runner = web.ServerRunner(web.Server(issuer.answer), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()
