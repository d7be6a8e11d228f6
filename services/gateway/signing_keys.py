"""The public keys of one issuer: fetched when they are needed, believed for a while, asked for
again at most every few seconds.

A key that is not known may be new, or invented: whoever floods us with invented ones costs the
issuer one request a while.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from math import inf

from jwt import PyJWK

from services.chassis.errors import UnavailableError
from services.chassis.telemetry import fields
from services.gateway.metrics import ISSUER_FETCHES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeyAges:
    """How old keys may be, in seconds since they were fetched."""

    refresh_seconds: float  # older ones are fetched again beside the call that finds them
    stale_seconds: float  # older ones are not believed, even while the issuer is away
    retry_seconds: float  # the issuer is not asked again sooner than this


class SigningKeys:
    """Finds a key by its id."""

    def __init__(
        self,
        issuer: str,
        fetch: Callable[[], Awaitable[Mapping[str, PyJWK]]],
        ages: KeyAges,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._fetch, self._ages, self._clock = issuer, fetch, ages, clock
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched_at, self._asked_at = -inf, -inf
        self._fetching: asyncio.Task[None] | None = None
        self._away: UnavailableError | None = None

    async def find(self, key_id: str) -> PyJWK | None:
        """None: the issuer has no such key.

        Raises:
            UnavailableError: the issuer does not say; the key may be new, or ours are too old.
        """
        key = self._known(key_id)
        if key is None or self._age() > self._ages.refresh_seconds:
            self._ask()
        if key is None and self._fetching:
            # Not awaited by itself: a caller that goes away must not end it for the others.
            await asyncio.wait({self._fetching})
            key = self._known(key_id)
        if key is None and self._away:
            raise self._away
        return key

    async def close(self) -> None:
        """Ask no more."""
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _known(self, key_id: str) -> PyJWK | None:
        return self._keys.get(key_id) if self._age() <= self._ages.stale_seconds else None

    def _ask(self) -> None:
        if self._fetching or self._clock() - self._asked_at < self._ages.retry_seconds:
            return
        self._asked_at = self._clock()
        self._fetching = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        try:
            self._keys = await self._fetch()
            self._fetched_at, self._away = self._clock(), None
            ISSUER_FETCHES.labels("fetched").inc()
        except UnavailableError as error:
            self._away = error
            ISSUER_FETCHES.labels("failed").inc()
            log.warning(
                "issuer's keys not fetched", extra=fields(issuer=self._issuer, reason=error.reason)
            )
        finally:
            self._fetching = None
