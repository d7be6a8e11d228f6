"""The model server over HTTP: KServe V2's repository extension, and its chat completions."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from services.chassis.errors import FailedPreconditionError, NotFoundError, UnavailableError
from services.generator.completions import SILENT, Completions, away, silent
from services.generator.engine import Message, Patience
from services.generator.presets import Sampling
from services.generator.sse import Piece

UNLOAD_SECONDS = 120.0


class HttpModelServer:
    """One model server that holds all versions. Its index is what tells silence."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, patience: Patience, load_seconds: float
    ) -> None:
        self._http = http
        self._url = url
        self._patience = patience
        self._load_seconds = load_seconds
        self._completions = Completions(http, url, patience)

    async def index(self) -> Mapping[str, bool]:
        """Version → whether it answers; as last told, if it is only busy. Raises: UnavailableError."""
        try:
            entries = await self._ask("index", {}, self._patience.hang_seconds)
        except UnavailableError as error:
            said = self._completions.not_heard()
            if said is None or error.reason != SILENT:
                raise
            return said
        try:
            return self._completions.heard(
                {entry["name"]: entry["state"] == "READY" for entry in entries}
            )
        except (KeyError, TypeError) as error:
            raise away(self._url) from error

    async def load(self, version: str, directory: str) -> None:
        """Returns when the version answers. Raises: UnavailableError, FailedPreconditionError with
        the reason.
        """
        body = {"parameters": {"directory": directory}}
        await self._ask(f"models/{version}/load", body, self._load_seconds)

    async def unload(self, version: str) -> None:
        """Returns when it is gone. Raises: UnavailableError, NotFoundError, FailedPreconditionError
        while answers run on it.
        """
        await self._ask(
            f"models/{version}/unload", {"parameters": {"only_idle": True}}, UNLOAD_SECONDS
        )

    async def _ask(self, path: str, body: object, seconds: float) -> Any:
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.post(f"{self._url}/v2/repository/{path}", json=body) as response,
            ):
                content = await response.json()
                if response.status == 200:
                    return content
        except TimeoutError as error:
            raise silent() from error
        except (aiohttp.ClientError, ValueError) as error:
            raise away(self._url) from error
        if response.status == 404:
            raise NotFoundError("the model server does not hold this version")
        if response.status in (429, 503):
            raise UnavailableError(
                "the model server is busy with its versions", reason="MODEL_SERVER_BUSY"
            )
        # The repository knows no user: what it says about a directory may be told.
        raise FailedPreconditionError(str(content.get("error", f"status {response.status}"))[:400])

    async def answer(
        self,
        version: str,
        messages: Sequence[Message],
        sampling: Sampling,
        take: Callable[[Piece], None],
    ) -> None:
        """See `Completions.answer`."""
        await self._completions.answer(version, messages, sampling, take)
