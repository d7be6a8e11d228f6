"""The API server as the cluster's own parts ask it, by name of an administrator: one object, a list, a watch."""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

from infra.cluster.certificates import AUTHORITY
from infra.cluster.layout import ADMIN, API, Layout
from infra.cluster.policies.objects import Json

ASK_SECONDS = 5.0
# One object is one line of a watch.
LONGEST_LINE_BYTES = 4_000_000


class Api:
    """Over one session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> Json:
        """Raises: aiohttp.ClientError, TimeoutError: it does not answer, or not with what was asked for."""
        async with self._session.get(path, timeout=aiohttp.ClientTimeout(ASK_SECONDS)) as answer:
            answer.raise_for_status()
            found: Json = await answer.json()
            return found

    async def watch(self, path: str, version: str) -> AsyncIterator[Json]:
        """Events after a version, until the server ends it."""
        forever = aiohttp.ClientTimeout(total=None, sock_connect=ASK_SECONDS)
        asked = {"watch": "true", "resourceVersion": version}
        async with self._session.get(path, params=asked, timeout=forever) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                yield json.loads(line)

    async def is_ready(self) -> bool:
        try:
            async with self._session.get("/readyz", timeout=aiohttp.ClientTimeout(ASK_SECONDS)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def connected(layout: Layout) -> AsyncIterator[Api]:
    """To the cluster whose network namespace this process is in."""
    context = ssl.create_default_context(cafile=str(layout.certificates / f"{AUTHORITY}.pem"))
    context.load_cert_chain(layout.certificates / f"{ADMIN}.pem", layout.certificates / f"{ADMIN}.key")
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(API, connector=connector, read_bufsize=LONGEST_LINE_BYTES) as session:
        yield Api(session)
