"""Counts of generations by version over all replicas, for the tests of a canary and of a watch.

A generation adds to counts in memory. Every FLUSH_SECONDS a replica adds its counts to the store in
one transaction. A killed replica loses the counts since its last flush. If the outcome of the
transaction is unknown, its counts are dropped: missing counts widen a comparison, while counts that
are added twice would falsify it.
"""

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple, Protocol

from sequential.figures import RATIO, VersionFigures
from services.chassis.errors import ResourceExhaustedError, ServiceError, UnavailableError
from services.chassis.telemetry import fields
from services.contracts.chat import Arm, Usage
from services.generator.metrics import TRAFFIC_LOST
from services.generator.rollout.rollout import Assignment

log = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
ALL_TIME = 0
# Reason of an UnavailableError if the transaction may have been committed.
OUTCOME_UNKNOWN = "ROLLOUT_OUTCOME_UNKNOWN"


class CountKind(StrEnum):
    """Subject of a count; the names are fields of `VersionFigures`."""

    REQUESTS = "requests"
    ERRORS = "errors"
    FIRST_TEXT_MS = "first_text_ms"
    ANSWER_TOKENS = "answer_tokens"
    TOTAL_TOKENS = "total_tokens"


class CountKey(NamedTuple):
    """Key of a count.

    Args:
        version: version that answered.
        since_us: start of the watch during which the generation began, or ALL_TIME.
        kind: subject.
        bin: bin of the histogram; 0 for requests and errors.
    """

    version: str
    since_us: int
    kind: CountKind
    bin: int


class TrafficStore(Protocol):
    """Store of the counts, shared by replicas.

    `add_traffic` adds all counts or none, `read_traffic` returns the counts of versions since the
    start of a watch (or ALL_TIME), and `forget_traffic` removes the counts of all watches except
    one. Methods raise UnavailableError, with reason OUTCOME_UNKNOWN if a change may have happened.
    """

    async def add_traffic(self, counts: Mapping[CountKey, int]) -> None: ...
    async def read_traffic(
        self, versions: Sequence[str], since_us: int
    ) -> Mapping[CountKey, int]: ...
    async def forget_traffic(self, except_since_us: int) -> None: ...


class CountedGeneration:
    """One running generation, which counts when it ends and not if the caller aborts it."""

    def __init__(self, counts: Counter[CountKey], version: str, periods: Iterable[int]) -> None:
        self._counts = counts
        self._version = version
        self._periods = periods

    def finished(self, first_text_seconds: float | None, usage: Usage) -> None:
        """Count a complete answer."""
        self._add(CountKind.REQUESTS, 0)
        if first_text_seconds is not None:
            self._add(CountKind.FIRST_TEXT_MS, bin_of(first_text_seconds * 1000))
        self._add(CountKind.ANSWER_TOKENS, bin_of(usage.completion_tokens))
        self._add(CountKind.TOTAL_TOKENS, bin_of(usage.prompt_tokens + usage.completion_tokens))

    def failed(self, error: ServiceError) -> None:
        """Count a failure of the model server; a request that the server refuses as invalid is
        none.
        """
        if isinstance(error, UnavailableError | ResourceExhaustedError):
            self._add(CountKind.REQUESTS, 0)
            self._add(CountKind.ERRORS, 0)

    def _add(self, kind: CountKind, number: int) -> None:
        for since_us in self._periods:
            self._counts[CountKey(self._version, since_us, kind, number)] += 1


class TrafficCounter:
    """Counts of this replica that the store does not contain yet.

    Args:
        store: counts of all replicas.
        watch_start_us: returns the start of the present watch, None without a watch.
    """

    def __init__(self, store: TrafficStore, watch_start_us: Callable[[], int | None]) -> None:
        self._store = store
        self._watch_start_us = watch_start_us
        self._counts: Counter[CountKey] = Counter()
        self._flushing = asyncio.Lock()
        self._unavailable = False

    def begin(self, assignment: Assignment) -> CountedGeneration:
        """Return the count of one generation; a pinned version counts nothing."""
        periods: Sequence[int] = ()
        if assignment.arm is not Arm.PINNED:
            since_us = self._watch_start_us()
            periods = (ALL_TIME,) if since_us is None else (ALL_TIME, since_us)
        return CountedGeneration(self._counts, assignment.version, periods)

    async def read(
        self, versions: Sequence[str], since_us: int = ALL_TIME
    ) -> dict[str, VersionFigures]:
        """Return the figures of versions with generations, including those of this replica.

        Raises:
            UnavailableError: the store does not answer.
        """
        await self.flush()
        found = figures(await self._store.read_traffic(versions, since_us))
        return {version: found[version] for version in versions if version in found}

    async def forget(self, except_since_us: int) -> None:
        """Remove the counts of earlier watches.

        Raises:
            UnavailableError: the store does not answer.
        """
        await self._store.forget_traffic(except_since_us)

    async def flush(self) -> None:
        """Add the counts to the store. Without the store, keep them for the next call."""
        async with self._flushing:
            # Generations that end during the call add to the same object, so it is emptied.
            counts = dict(self._counts)
            self._counts.clear()
            if not counts:
                return
            try:
                await self._store.add_traffic(counts)
            except UnavailableError as error:
                if error.reason == OUTCOME_UNKNOWN:
                    lost = (
                        count
                        for key, count in counts.items()
                        if key.kind is CountKind.REQUESTS and key.since_us == ALL_TIME
                    )
                    TRAFFIC_LOST.inc(sum(lost))
                else:
                    self._counts.update(counts)
                if not self._unavailable:
                    log.warning("traffic counts not stored", extra=fields(reason=error.reason))
                self._unavailable = True
            else:
                self._unavailable = False

    async def run(self) -> None:
        """Flush periodically until cancelled, and a last time then."""
        try:
            while True:
                await asyncio.sleep(FLUSH_SECONDS)
                await self.flush()
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self.flush()


def bin_of(value: float) -> int:
    """Return the bin of a histogram, as `sequential.figures` defines it."""
    return int(math.log(value) / math.log(RATIO)) if value >= 1 else 0


def figures(counts: Mapping[CountKey, int]) -> dict[str, VersionFigures]:
    """Return the figures of each version in the counts of one period."""
    numbers: Counter[tuple[str, CountKind]] = Counter()
    bins: dict[tuple[str, CountKind], dict[int, int]] = {}
    for key, count in counts.items():
        numbers[key.version, key.kind] += count
        bins.setdefault((key.version, key.kind), {})[key.bin] = count
    return {
        version: VersionFigures(
            requests=numbers[version, CountKind.REQUESTS],
            errors=numbers[version, CountKind.ERRORS],
            first_text_ms=bins.get((version, CountKind.FIRST_TEXT_MS), {}),
            answer_tokens=bins.get((version, CountKind.ANSWER_TOKENS), {}),
            total_tokens=bins.get((version, CountKind.TOTAL_TOKENS), {}),
        )
        for version in {key.version for key in counts}
    }
