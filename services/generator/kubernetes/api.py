"""Client of the Kubernetes API inside a pod, with a deadline on each call.

The client authenticates with the mounted token, which rotates. Errors of the HTTP client are
translated here. Messages of the API about objects may be passed on, since objects contain no user
text.
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
MAX_MESSAGE_CHARACTERS = 400
# Statuses worth a retry: timeout, too many requests, server errors.
_RETRYABLE_STATUSES = frozenset({408, 429, *range(500, 600)})


class NoServiceAccountError(DetailedError):
    """The files of a service account are missing; `field` is the file."""

    reason = "MISSING"


class KubernetesApi:
    """Read, apply and delete objects by path.

    Every method raises UnavailableError while the API does not answer, NotFoundError if the object
    does not exist, and FailedPreconditionError with the API's message for other refusals, such as a
    missing permission, an exceeded quota or an invalid object.
    """

    def __init__(self, session: aiohttp.ClientSession, token_file: Path, seconds: float) -> None:
        self._session = session
        self._token_file = token_file
        self._seconds = seconds

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Return one object, or a list of objects."""
        return await self._request("GET", path, query or {})

    async def apply(self, path: str, body: Json) -> Json:
        """Create or change an object by server-side apply with `force`.

        Fields of other managers stay unchanged.
        """
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        return await self._request("PATCH", path, query, body, "application/apply-patch+yaml")

    async def delete(self, path: str, uid: str) -> None:
        """Delete the object with this uid and its dependents in the background.

        The object may still exist when the method returns.
        """
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        await self._request(
            "DELETE", path, {}, {"apiVersion": "v1", "kind": "DeleteOptions", **body}
        )

    async def _request(
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
            raise _unavailable_error() from error
        if status < 300:
            return answer
        if status in _RETRYABLE_STATUSES:
            raise _unavailable_error()
        message = str(answer.get("message", f"status {status}"))[:MAX_MESSAGE_CHARACTERS]
        if status == 404:
            raise NotFoundError(message)
        raise FailedPreconditionError(
            f"the Kubernetes API rejects the request: {message}", reason="KUBERNETES_API_REFUSES"
        )


def read_namespace(directory: Path) -> str:
    """Return the namespace of a mounted service account. Blocking.

    Raises:
        NoServiceAccountError: the file `namespace` is missing.
    """
    try:
        return (directory / "namespace").read_text().strip()
    except OSError as error:
        raise NoServiceAccountError(
            f"{directory} has no file namespace; check that a service account is mounted",
            field=str(directory / "namespace"),
        ) from error


@asynccontextmanager
async def open_kubernetes_api(
    url: str, directory: Path, seconds: float
) -> AsyncIterator[KubernetesApi]:
    """Open a client with the files of a service account: `token` and `ca.crt`.

    `ca.crt` is the only trusted authority.

    Raises:
        NoServiceAccountError: the file `ca.crt` is missing.
    """
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.crt"))
    except OSError as error:
        raise NoServiceAccountError(
            f"{directory} has no file ca.crt; check that a service account is mounted",
            field=str(directory / "ca.crt"),
        ) from error
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        yield KubernetesApi(session, directory / "token", seconds)


def _unavailable_error() -> UnavailableError:
    return UnavailableError(
        "the Kubernetes API is unavailable", reason="KUBERNETES_API_AWAY", retry_seconds=1.0
    )
