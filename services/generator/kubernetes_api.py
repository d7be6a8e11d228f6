"""The Kubernetes API as a pod speaks it: by its mounted token, which rotates, with a deadline on
each call.

Foreign errors are translated here. What the API says about an object may be told: no user's word is
in one.
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp

from services.chassis.errors import (
    DetailedError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)

Json: TypeAlias = dict[str, Any]
FIELD_MANAGER = "thumbwheel-generator"
MOST_CHARACTERS = 400
# What another try brings round: too many requests, or a server in trouble.
_LATER = frozenset({408, 429, *range(500, 600)})


class NoServiceAccountError(DetailedError):
    """The files of a service account are not there; `field` is the file."""

    reason = "MISSING"


class KubernetesApi:
    """Objects by their paths.

    Every method raises UnavailableError while the API is away, NotFoundError where nothing is, and
    FailedPreconditionError with what the API says if it refuses: a right that is missing, a quota,
    an object that is wrong.
    """

    def __init__(self, session: aiohttp.ClientSession, token_file: Path, seconds: float) -> None:
        self._session = session
        self._token_file = token_file
        self._seconds = seconds

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """One object, or a list of them."""
        return await self._ask("GET", path, query or {})

    async def apply(self, path: str, body: Json) -> Json:
        """Make the object so, whoever made it: server-side, and what others set in it stays."""
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        return await self._ask("PATCH", path, query, body, "application/apply-patch+yaml")

    async def delete(self, path: str, uid: str) -> None:
        """Let this very object go, and then what hangs on it. Returns before it is gone."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._ask("DELETE", path, {}, {"apiVersion": "v1", "kind": "DeleteOptions", **body})

    async def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: Json | None = None,
        kind: str = "application/json",
    ) -> Json:
        data = None if body is None else json.dumps(body)
        try:
            token = (await asyncio.to_thread(self._token_file.read_text)).strip()
            headers = {
                "Authorization": f"Bearer {token}",
                "Content-Type": kind,
                "Accept": "application/json",
            }
            async with (
                asyncio.timeout(self._seconds),
                self._session.request(
                    method, path, params=query, data=data, headers=headers
                ) as response,
            ):
                status, content = response.status, await response.text()
            answer: Json = json.loads(content)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise _away() from error
        if status < 300:
            return answer
        if status in _LATER:
            raise _away()
        said = str(answer.get("message", f"status {status}"))[:MOST_CHARACTERS]
        if status == 404:
            raise NotFoundError(said)
        raise FailedPreconditionError(
            f"the Kubernetes API refuses: {said}", reason="KUBERNETES_API_REFUSES"
        )


def read_namespace(directory: Path) -> str:
    """Of the service account whose files these are. Blocking. Raises: NoServiceAccountError."""
    try:
        return (directory / "namespace").read_text().strip()
    except OSError as error:
        raise NoServiceAccountError(
            f"{directory} has no namespace: is a service account mounted there?",
            field=str(directory / "namespace"),
        ) from error


@asynccontextmanager
async def open_kubernetes_api(
    url: str, directory: Path, seconds: float
) -> AsyncIterator[KubernetesApi]:
    """By the files of a service account: `token`, and `ca.crt` which alone is believed. Raises:
    NoServiceAccountError.
    """
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    except OSError as error:
        raise NoServiceAccountError(
            f"{directory} has no ca.crt: is a service account mounted there?",
            field=str(directory / "ca.crt"),
        ) from error
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        yield KubernetesApi(session, directory / "token", seconds)


def _away() -> UnavailableError:
    return UnavailableError(
        "the Kubernetes API is away", reason="KUBERNETES_API_AWAY", retry_seconds=1.0
    )
