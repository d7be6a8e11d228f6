"""The API server as the cluster's own parts ask it, by name of an administrator: objects, lists, a
watch.
"""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from infra.cluster.certificates import AUTHORITY
from infra.cluster.layout import ADMIN, API, Layout
from infra.cluster.policies.objects import Json

ASK_SECONDS = 5.0
FIELD_MANAGER = "thumbwheel-cluster"
# One object is one line of a watch.
LONGEST_LINE_BYTES = 4_000_000


class Api:
    """Over one session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Raises: aiohttp.ClientError, TimeoutError: it does not answer, or not with what was asked
        for.
        """
        async with self._session.get(
            path, params=query, timeout=aiohttp.ClientTimeout(ASK_SECONDS)
        ) as answer:
            answer.raise_for_status()
            found: Json = await answer.json()
            return found

    async def apply(self, path: str, body: Json) -> Json:
        """Server-side, over whatever others say. Raises: aiohttp.ClientError, with what the API
        says; TimeoutError.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._patch(path, body, "application/apply-patch+yaml", query)

    async def merge(self, path: str, body: Json) -> Json:
        """What it holds, over what is there. Raises: aiohttp.ClientError, TimeoutError."""
        return await self._patch(
            path, body, "application/merge-patch+json", {"fieldManager": FIELD_MANAGER}
        )

    async def _patch(self, path: str, body: Json, kind: str, query: Mapping[str, str]) -> Json:
        timeout, headers = aiohttp.ClientTimeout(ASK_SECONDS), {"Content-Type": kind}
        async with self._session.patch(
            path, params=query, data=json.dumps(body), headers=headers, timeout=timeout
        ) as answer:
            found: Json = await answer.json()
            if answer.status >= 300:
                raise aiohttp.ClientResponseError(
                    answer.request_info,
                    (),
                    status=answer.status,
                    message=str(found.get("message", "")),
                )
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
            async with self._session.get(
                "/readyz", timeout=aiohttp.ClientTimeout(ASK_SECONDS)
            ) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def connected(layout: Layout) -> AsyncIterator[Api]:
    """To the cluster whose network namespace this process is in."""
    context = ssl.create_default_context(cafile=str(layout.certificates / f"{AUTHORITY}.pem"))
    context.load_cert_chain(
        layout.certificates / f"{ADMIN}.pem", layout.certificates / f"{ADMIN}.key"
    )
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(
        API, connector=connector, read_bufsize=LONGEST_LINE_BYTES
    ) as session:
        yield Api(session)
