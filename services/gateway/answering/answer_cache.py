"""Cache of answers, for requests that must get the same answer again within one tenant.

Conditions: temperature 0, a new message, no battle, no running experiment that has to choose a
version, and equality of everything that the answer depends on. Only complete answers without a
finding of the guard are stored. The key contains the version of the guard's policy.
"""

import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from cachetools import TTLCache
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import ServiceError
from services.contracts.chat import Role, SamplingOverrides, Task
from services.contracts.wire import ROLES, Context
from services.gateway.metrics import CACHE_RESULTS
from services.gateway.shared import StoreUnavailableError
from services.gateway.turns.request import Regenerate, TurnRequest

MAX_ANSWER_BYTES = 65_536


@dataclass(frozen=True)
class CacheKey:
    """All inputs that determine an answer.

    `context` holds role and text of the messages for the model. The user's enhanced text is the
    last.
    """

    tenant: str
    model_version: str
    pinned: bool
    policy_version: str
    task: Task
    sampling: SamplingOverrides
    context: tuple[tuple[Role, str], ...]

    def canonical(self) -> str:
        """Return a unique text for this key."""
        # Gateways of other versions hash the same text: all fields in their order.
        values = vars(self) | {"sampling": list(vars(self.sampling).values())}
        return json.dumps(list(values.values()))


@dataclass(frozen=True)
class CachedAnswer:
    """An answer from the cache."""

    text: str
    selected: generator_pb2.Selected
    usage: chat_pb2.Usage


class CacheBackend(Protocol):
    """Cache backend. All methods raise StoreUnavailableError."""

    async def find(self, cache_key: CacheKey) -> CachedAnswer | None:
        """Return the answer, or None if it is absent or unreadable."""

    async def store(self, cache_key: CacheKey, answer: CachedAnswer) -> None:
        """Store an answer for a limited time."""

    async def drop_tenant(self, tenant: str) -> None:
        """Remove all answers of a tenant."""


class Versions(Protocol):
    """Versions that currently answer."""

    async def sole_version(self) -> str:
        """Return the only serving version, or an empty string while an experiment runs.

        Raises:
            ServiceError: The generator service failed.
        """


class AnswerCache:
    """Finds and stores answers. In case of doubt or outage the model answers."""

    def __init__(self, answers: CacheBackend | None, versions: Versions) -> None:
        self._cache_backend, self._versions = answers, versions

    async def cache_key(
        self, tenant: str, request: TurnRequest, context: Context, policy_version: str
    ) -> CacheKey | None:
        """Return the cache key of a request, or None if the request is not cacheable."""
        if (
            not self._cache_backend
            or request.sampling.temperature != 0
            or isinstance(request.action, Regenerate)
            # An answer without delay would show that its text is known.
            or request.is_battle
        ):
            return None
        pinned = request.pinned_version
        try:
            # A pinned version is certain even during an experiment.
            version = pinned or await self._versions.sole_version()
        except ServiceError:
            version = ""
        if not version:
            CACHE_RESULTS.labels("in_doubt").inc()
            return None
        return CacheKey(
            tenant,
            version,
            bool(pinned),
            policy_version,
            request.task,
            request.sampling,
            tuple((ROLES[message.role], message.text) for message in context),
        )

    async def find(self, cache_key: CacheKey) -> CachedAnswer | None:
        """Return the cached answer, or None if absent or if the store is unavailable."""
        if not self._cache_backend:
            return None
        try:
            found = await self._cache_backend.find(cache_key)
        except StoreUnavailableError:
            CACHE_RESULTS.labels("away").inc()
            return None
        CACHE_RESULTS.labels("hit" if found else "miss").inc()
        return found

    async def store(
        self,
        cache_key: CacheKey,
        answer: session_pb2.FinishTurnRequest,
        selected: generator_pb2.Selected | None,
    ) -> None:
        """Store an answer if it is complete, without findings, and from the requested version."""
        if not self._cache_backend or not selected or answer.usage.cached:
            return
        # Incomplete answers and answers with a finding of the guard are never repeated.
        if (
            answer.finish_reason != chat_pb2.FINISH_REASON_STOP
            or answer.guard_category
            or not answer.text
            or not answer.HasField("usage")
        ):
            return
        if (
            selected.model_version != cache_key.model_version
            or len(answer.text.encode()) > MAX_ANSWER_BYTES
        ):
            return
        try:
            await self._cache_backend.store(
                cache_key, CachedAnswer(answer.text, selected, answer.usage)
            )
        except StoreUnavailableError:
            CACHE_RESULTS.labels("away").inc()
        else:
            CACHE_RESULTS.labels("kept").inc()

    async def drop_tenant(self, tenant: str) -> None:
        """Remove all answers of a tenant.

        The cache does not record users, so the erasure of one user removes the answers of the whole
        tenant.

        Raises:
            StoreUnavailableError: The answers may still exist.
        """
        if self._cache_backend:
            await self._cache_backend.drop_tenant(tenant)


class LocalCacheBackend:
    """Backend in process memory. Evicts the least recently used answer of each tenant."""

    def __init__(
        self, seconds: float, entries: int, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._kept: defaultdict[str, TTLCache[CacheKey, CachedAnswer]] = defaultdict(
            lambda: TTLCache(entries, seconds, monotonic)
        )

    async def find(self, cache_key: CacheKey) -> CachedAnswer | None:
        return self._kept[cache_key.tenant].get(cache_key)

    async def store(self, cache_key: CacheKey, answer: CachedAnswer) -> None:
        self._kept[cache_key.tenant][cache_key] = answer

    async def drop_tenant(self, tenant: str) -> None:
        self._kept.pop(tenant, None)
