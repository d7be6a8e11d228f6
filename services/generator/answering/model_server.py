"""Client of one model server: KServe V2's repository extension, and chat completions."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from services.chassis.errors import FailedPreconditionError, NotFoundError, UnavailableError
from services.contracts.chat import ContextMessage
from services.generator.answering.completions import (
    SILENT_REASON,
    Completions,
    silent_error,
    unreachable_error,
)
from services.generator.answering.engine import Timeouts
from services.generator.answering.presets import Sampling
from services.generator.answering.sse import Chunk

UNLOAD_SECONDS = 120.0


class HttpModelServer:
    """One model server for all versions; its model index is the liveness probe."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, timeouts: Timeouts, load_seconds: float
    ) -> None:
        self._http = http
        self._url = url
        self._timeouts = timeouts
        self._load_seconds = load_seconds
        self._completions = Completions(http, url, timeouts)

    async def index(self) -> Mapping[str, bool]:
        """Return for each version True if ready; while the server is busy, the last known index.

        Raises:
            UnavailableError: the server is unreachable or hangs.
        """
        try:
            entries = await self._post("index", {}, self._timeouts.hang_seconds)
        except UnavailableError as error:
            index = self._completions.probe_failed()
            if index is None or error.reason != SILENT_REASON:
                raise
            return index
        try:
            return self._completions.probe_succeeded(
                {entry["name"]: entry["state"] == "READY" for entry in entries}
            )
        except (KeyError, TypeError) as error:
            raise unreachable_error(self._url) from error

    async def load(self, version: str, directory: str) -> None:
        """Load a version and return when the version is ready.

        Raises:
            UnavailableError: the server is unreachable or busy.
            FailedPreconditionError: the version cannot be loaded; the text holds the reason.
        """
        body = {"parameters": {"directory": directory}}
        await self._post(f"models/{version}/load", body, self._load_seconds)

    async def unload(self, version: str) -> None:
        """Unload a version and return when its memory is free.

        Raises:
            UnavailableError: the server is unreachable or busy.
            NotFoundError: the version is not loaded.
            FailedPreconditionError: answers run on the version.
        """
        await self._post(
            f"models/{version}/unload", {"parameters": {"only_idle": True}}, UNLOAD_SECONDS
        )

    async def _post(self, path: str, body: object, seconds: float) -> Any:
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.post(f"{self._url}/v2/repository/{path}", json=body) as response,
            ):
                content = await response.json()
                if response.status == 200:
                    return content
        except TimeoutError as error:
            raise silent_error() from error
        except (aiohttp.ClientError, ValueError) as error:
            raise unreachable_error(self._url) from error
        if response.status == 404:
            raise NotFoundError("the model server does not hold this version")
        if response.status in (429, 503):
            raise UnavailableError(
                "the model server is busy loading or unloading versions", reason="MODEL_SERVER_BUSY"
            )
        # Repository errors describe directories and contain no user text, so the message may be
        # passed on.
        raise FailedPreconditionError(str(content.get("error", f"status {response.status}"))[:400])

    async def answer(
        self,
        version: str,
        messages: Sequence[ContextMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Implement `ChatServer.answer`, see `Completions.answer`."""
        await self._completions.answer(version, messages, sampling, on_chunk)
