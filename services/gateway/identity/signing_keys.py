"""Public keys of one issuer, fetched on demand and cached for a limited time.

An unknown key may be new or invented. Fetches have a minimum interval, to protect the issuer from
floods of invented keys.
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
class KeyAgeLimits:
    """Age limits of keys, in seconds since the last fetch."""

    refresh_seconds: float  # older keys are refreshed in the background
    stale_seconds: float  # older keys are rejected, even while the issuer is unavailable
    retry_seconds: float  # minimum interval between two fetches


class SigningKeys:
    """Finds keys by id."""

    def __init__(
        self,
        issuer: str,
        fetch: Callable[[], Awaitable[Mapping[str, PyJWK]]],
        ages: KeyAgeLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer, self._fetch, self._ages, self._clock = issuer, fetch, ages, clock
        self._keys: Mapping[str, PyJWK] = {}
        self._fetched_at, self._fetch_started_at = -inf, -inf
        self._fetching: asyncio.Task[None] | None = None
        self._fetch_error: UnavailableError | None = None

    async def find(self, key_id: str) -> PyJWK | None:
        """Return the key, or None if the issuer has no such key.

        Raises:
            UnavailableError: The issuer did not answer, and the key is unknown or too old.
        """
        key = self._known(key_id)
        if key is None or self._age() > self._ages.refresh_seconds:
            since_fetch = self._clock() - self._fetch_started_at
            if not self._fetching and since_fetch >= self._ages.retry_seconds:
                self._fetch_started_at = self._clock()
                self._fetching = asyncio.create_task(self._refresh())
        if key is None and self._fetching:
            # Wait without awaiting the task itself, since cancelling this caller must not cancel
            # the fetch of the others.
            await asyncio.wait({self._fetching})
            key = self._known(key_id)
        if key is None and self._fetch_error:
            raise self._fetch_error
        return key

    async def close(self) -> None:
        """Cancel a running fetch."""
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait({self._fetching})

    def _age(self) -> float:
        return self._clock() - self._fetched_at

    def _known(self, key_id: str) -> PyJWK | None:
        return self._keys.get(key_id) if self._age() <= self._ages.stale_seconds else None

    async def _refresh(self) -> None:
        try:
            self._keys = await self._fetch()
            self._fetched_at, self._fetch_error = self._clock(), None
            ISSUER_FETCHES.labels("fetched").inc()
        except UnavailableError as error:
            self._fetch_error = error
            ISSUER_FETCHES.labels("failed").inc()
            log.warning(
                "issuer's keys not fetched", extra=fields(issuer=self._issuer, reason=error.reason)
            )
        finally:
            self._fetching = None
