"""Replicas of one model server behind one name, each with versions of its own.

A version is served while at least one replica holds it. An answer goes to the replica with the
fewest running answers of this process. Replicas that lack a version load it in the background.
"""

import asyncio
import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from services.chassis.telemetry import fields
from services.generator.answering.engine import Timeouts
from services.generator.answering.model_server import (
    SILENT_REASON,
    HttpModelServer,
    not_held_error,
    unreachable_error,
)
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk
from services.generator.metrics import MODEL_SERVER_REPLICAS

log = logging.getLogger(__name__)

Addresses = Callable[[], Awaitable[Sequence[str]]]
"""Returns the URL of each replica; raises OSError if the name is unknown."""


def resolved(url: str) -> Addresses:
    """Return the lookup of all addresses behind the name of a URL.

    With https the name is kept, because a certificate contains names.
    """
    parts = urlsplit(url)

    async def resolve() -> Sequence[str]:
        if parts.scheme == "https":
            return [url]
        found = await asyncio.get_running_loop().getaddrinfo(
            parts.hostname, parts.port or 80, type=socket.SOCK_STREAM
        )
        hosts = {
            f"[{address[0]}]" if family == socket.AF_INET6 else str(address[0])
            for family, *_, address in found
        }
        return sorted(f"http://{host}:{parts.port or 80}" for host in hosts)

    return resolve


@dataclass(eq=False)
class _Replica:
    """One replica, with the last index that it returned and the answers of this process."""

    server: HttpModelServer
    index: Mapping[str, bool] = field(default_factory=dict)
    is_answering: bool = False
    running: int = 0
    retry_at: dict[str, float] = field(default_factory=dict)

    def holds(self, version: str) -> bool:
        return self.is_answering and self.index.get(version, False)


class ModelServerReplicas:
    """All replicas of the model server, as one `ModelServer`.

    Args:
        http: session with a timeout for connecting.
        addresses: lookup of the replicas, called before each probe.
        timeouts: timeouts of each replica.
        load_seconds: timeout of loading a version.
        retry_seconds: wait before a replica that refused a version is asked again.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        addresses: Addresses,
        timeouts: Timeouts,
        load_seconds: float,
        retry_seconds: float,
    ) -> None:
        self._http = http
        self._addresses = addresses
        self._timeouts = timeouts
        self._load_seconds = load_seconds
        self._retry_seconds = retry_seconds
        self._replicas: dict[str, _Replica] = {}

    async def index(self) -> Mapping[str, bool]:
        """Return for each version True if ready in at least one replica.

        The versions of a replica that does not answer stay listed as not ready, so that a retired
        version is not forgotten before that replica has unloaded it.

        Raises:
            UnavailableError: no replica is reachable, or all hang.
        """
        await self._find_replicas()
        replicas = list(self._replicas.values())
        errors = [
            error
            for error in await asyncio.gather(*map(self._probe, replicas))
            if error is not None
        ]
        answering = len(replicas) - len(errors)
        MODEL_SERVER_REPLICAS.labels("answering").set(answering)
        MODEL_SERVER_REPLICAS.labels("silent").set(len(errors))
        if not answering:
            raise errors[0] if errors else unreachable_error()
        versions = {version for replica in replicas for version in replica.index}
        return {
            version: any(replica.holds(version) for replica in replicas) for version in versions
        }

    async def load(self, version: str, directory: str) -> None:
        """Load a version into all replicas and return when each has answered.

        Raises:
            FailedPreconditionError: no replica can load the version; the text holds the reason.
            UnavailableError: no replica is reachable, or all are busy.
        """
        results = await asyncio.gather(
            *(self._load(replica, version, directory) for replica in self._answering())
        )
        errors = [error for error in results if error is not None]
        if len(errors) == len(results):
            refusals = [error for error in errors if isinstance(error, FailedPreconditionError)]
            raise next(iter(refusals or errors), unreachable_error())

    async def load_missing(self, version: str, directory: str) -> None:
        """Load a served version into the replicas that lack it, for example a new one.

        A replica that refused the version is asked again after `retry_seconds`.
        """
        now = time.monotonic()
        lacking = [
            replica
            for replica in self._answering()
            if not replica.index.get(version) and now >= replica.retry_at.get(version, now)
        ]
        await asyncio.gather(*(self._load(replica, version, directory) for replica in lacking))

    async def unload(self, version: str) -> None:
        """Unload a version from each replica without answers on it.

        Raises:
            FailedPreconditionError: answers run on the version in a replica.
            UnavailableError: a replica with the version is unreachable or busy.
            NotFoundError: no replica holds the version.
        """
        results = await asyncio.gather(
            *(
                replica.server.unload(version)
                for replica in self._replicas.values()
                if version in replica.index
            ),
            return_exceptions=True,
        )
        errors = [result for result in results if isinstance(result, BaseException)]
        if others := [error for error in errors if not isinstance(error, NotFoundError)]:
            raise others[0]
        if len(errors) == len(results):
            raise not_held_error()

    async def bases(self, wanted: Mapping[str, str]) -> frozenset[str]:
        """Return no versions, since each one is loaded as a complete model."""
        return frozenset()

    async def tokenizer_info(self, version: str) -> Mapping[str, Any] | None:
        """Return the version's tokenizer_config.json, see `Completions.tokenizer_info`."""
        replica = self._choose(version, frozenset())
        return await replica.server.tokenizer_info(version) if replica else None

    async def tokenize(self, version: str, text: str) -> list[int] | None:
        """Return the token ids of a text, see `Completions.tokenize`."""
        replica = self._choose(version, frozenset())
        return await replica.server.tokenize(version, text) if replica else None

    async def answer(
        self,
        version: str,
        messages: Sequence[chat_pb2.HistoryMessage],
        sampling: Sampling,
        on_chunk: Callable[[Chunk], None],
    ) -> None:
        """Implement `ChatServer.answer`, see `Completions.answer`.

        Until the first chunk, another replica is asked if one is unreachable, lacks the version or
        has a full queue, and once after a replica that hangs.

        Raises:
            ServiceError: the error of the last replica.
            NotFoundError: no replica holds the version.
        """
        tried: set[_Replica] = set()
        has_begun = hung = False

        def pass_on(chunk: Chunk) -> None:
            nonlocal has_begun
            has_begun = True
            on_chunk(chunk)

        failure: ServiceError | None = None
        while (replica := self._choose(version, tried)) is not None:
            tried.add(replica)
            replica.running += 1
            try:
                await replica.server.answer(version, messages, sampling, pass_on)
            except (NotFoundError, ResourceExhaustedError) as error:
                failure = error
            except UnavailableError as error:
                hangs = error.reason == SILENT_REASON and not replica.is_answering and not hung
                if has_begun or not (hangs or error.reason == "MODEL_NOT_READY"):
                    raise
                failure, hung = error, hung or hangs
            else:
                return
            finally:
                replica.running -= 1
        raise failure or (not_held_error() if self._answering() else unreachable_error())

    async def _find_replicas(self) -> None:
        try:
            urls = await self._addresses()
        except OSError:
            # The pods do not need the DNS. A replica that is gone refuses its probe.
            if not self._replicas:
                raise unreachable_error() from None
            return
        self._replicas = {
            url: self._replicas.get(url)
            or _Replica(HttpModelServer(self._http, url, self._timeouts, self._load_seconds))
            for url in urls
        }

    async def _probe(self, replica: _Replica) -> ServiceError | None:
        """Read the index of a replica and return its error, if any."""
        try:
            replica.index = await replica.server.index()
        except ServiceError as error:
            if replica.is_answering:
                log.warning("model server replica lost", extra=fields(reason=error.reason))
            replica.is_answering = False
            return error
        replica.is_answering = True
        return None

    async def _load(self, replica: _Replica, version: str, directory: str) -> ServiceError | None:
        """Load a version into one replica and return its error, if any."""
        try:
            await replica.server.load(version, directory)
        except ServiceError as error:
            replica.retry_at[version] = time.monotonic() + self._retry_seconds
            log.warning("replica lacks version", extra=fields(version=version, reason=error.reason))
            return error
        replica.retry_at.pop(version, None)
        replica.index = {**replica.index, version: True}
        return None

    def _answering(self) -> list[_Replica]:
        return [replica for replica in self._replicas.values() if replica.is_answering]

    def _choose(self, version: str, tried: frozenset[_Replica] | set[_Replica]) -> _Replica | None:
        """Return the replica with the fewest answers among those with the version."""
        found = [
            replica
            for replica in self._replicas.values()
            if replica not in tried and replica.holds(version)
        ]
        # Several processes would otherwise all prefer the first replica.
        return min(found, key=lambda replica: (replica.running, random.random()), default=None)
