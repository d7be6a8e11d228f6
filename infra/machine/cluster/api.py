"""Client of the API server with administrator rights: get, patch and watch."""

import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp

from infra.machine.cluster.certificates import AUTHORITY
from infra.machine.cluster.layout import ADMIN, API, Layout
from infra.machine.cluster.policies.objects import Json

TIMEOUT_SECONDS = 5.0
FIELD_MANAGER = "thumbwheel-cluster"
# Each object is a single line of a watch.
LONGEST_LINE_BYTES = 4_000_000


class Api:
    """API calls on an HTTP session."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Read an object or list.

        Raises:
            aiohttp.ClientError, TimeoutError: no response, or an error status.
        """
        async with self._session.get(
            path, params=query, timeout=aiohttp.ClientTimeout(TIMEOUT_SECONDS)
        ) as answer:
            answer.raise_for_status()
            found: Json = await answer.json()
            return found

    async def apply(self, path: str, body: Json) -> Json:
        """Apply an object by server-side apply and take over conflicting fields.

        Raises:
            aiohttp.ClientError: the API rejected the object; contains its message.
            TimeoutError: no response.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true"}
        return await self._patch(path, body, "application/apply-patch+yaml", query)

    async def merge(self, path: str, body: Json) -> Json:
        """Merge a patch into an object.

        Raises:
            aiohttp.ClientError, TimeoutError: no response, or an error status.
        """
        return await self._patch(
            path, body, "application/merge-patch+json", {"fieldManager": FIELD_MANAGER}
        )

    async def _patch(self, path: str, body: Json, kind: str, query: Mapping[str, str]) -> Json:
        timeout, headers = aiohttp.ClientTimeout(TIMEOUT_SECONDS), {"Content-Type": kind}
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
        """Yield events after a resource version until the server closes the watch."""
        forever = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT_SECONDS)
        asked = {"watch": "true", "resourceVersion": version}
        async with self._session.get(path, params=asked, timeout=forever) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                yield json.loads(line)

    async def is_ready(self) -> bool:
        try:
            async with self._session.get(
                "/readyz", timeout=aiohttp.ClientTimeout(TIMEOUT_SECONDS)
            ) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False


@asynccontextmanager
async def connected(layout: Layout) -> AsyncIterator[Api]:
    """Connect to the cluster in whose network namespace this process runs."""
    context = ssl.create_default_context(cafile=str(layout.certificates / f"{AUTHORITY}.pem"))
    context.load_cert_chain(
        layout.certificates / f"{ADMIN}.pem", layout.certificates / f"{ADMIN}.key"
    )
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(
        API, connector=connector, read_bufsize=LONGEST_LINE_BYTES
    ) as session:
        yield Api(session)
