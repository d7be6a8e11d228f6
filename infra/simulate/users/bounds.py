"""Bounds and counts of simulated users.

A thumb counts after the system has acknowledged it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from infra.simulate.users.client import Answer, CallFailedError
from training.errors import ConfigError, DetailedError

# After this number of failed visits in a row the population stops with an error.
MAX_ERRORS_IN_A_ROW = 20
# Pause after a failed visit.
ERROR_PAUSE_SECONDS = 0.5


class PopulationError(DetailedError, RuntimeError):
    """The system has stopped responding to users; the message contains the last error."""

    reason = "FAILED"


@dataclass(frozen=True)
class Bounds:
    """Limits of a population's run, which ends at the first limit.

    `pause_seconds` returns the pause of each worker after a visit, evaluated every second.
    """

    thumbs: int
    seconds: float
    concurrency: int
    pause_seconds: Callable[[], float] = field(default=lambda: 0.0)

    def __post_init__(self) -> None:
        for name in ("thumbs", "seconds", "concurrency"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"{name}: {getattr(self, name)} is not above 0",
                    field=name,
                    reason="OUT_OF_RANGE",
                    limit="above 0",
                )


@dataclass
class Counts:
    """Counts of a run.

    `turns` counts answers of a model version, as recorded in the log of turns. `refused` counts
    answers blocked by the guardrail. `waits` lists the seconds from question to complete answer.
    """

    answers: int = 0
    regenerated: int = 0
    edited: int = 0
    turns: int = 0
    refused: int = 0
    up: int = 0
    down: int = 0
    corrections: int = 0
    errors: int = 0
    by_version: dict[str, int] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)

    @property
    def thumbs(self) -> int:
        return self.up + self.down

    @property
    def events(self) -> int:
        """Return the number of events in the feedback log from these users."""
        return self.thumbs + self.corrections

    def record_answer(self, answer: Answer) -> None:
        """Record an answer in the counts."""
        self.answers += 1
        self.turns += bool(answer.model_version)
        self.refused += answer.refused
        self.by_version[answer.model_version] = self.by_version.get(answer.model_version, 0) + 1
        self.waits.append(answer.seconds)

    def text(self) -> str:
        """Return the counts for a progress line."""
        parts = [
            f"{self.answers} answers",
            f"{self.up} up",
            f"{self.down} down",
            f"{self.corrections} corrections",
        ]
        return ", ".join([*parts, f"{self.errors} errors"] if self.errors else parts)


class PopulationRun:
    """State of a population's run in progress."""

    def __init__(
        self, bounds: Bounds, watch: Callable[[Counts], None], stop: asyncio.Event
    ) -> None:
        self.counts = Counts()
        self._bounds, self._watch, self._stop = bounds, watch, stop
        self._started = time.monotonic()
        self._reserved = self._errors_in_a_row = 0

    @property
    def is_over(self) -> bool:
        if self._stop.is_set() or self._reserved >= self._bounds.thumbs:
            return True
        return time.monotonic() - self._started >= self._bounds.seconds

    @contextmanager
    def thumb(self, up: bool) -> Iterator[bool]:
        """Yield True if another thumb is within the limit.

        The thumb is reserved before the call, so that concurrent users respect the limit.
        """
        if self._reserved >= self._bounds.thumbs:
            yield False
            return
        self._reserved += 1
        try:
            yield True
        except CallFailedError:
            self._reserved -= 1
            raise
        self.counts.up += up
        self.counts.down += not up

    async def record_success(self) -> None:
        """Record a successful visit and pause."""
        self._errors_in_a_row = 0
        self._watch(self.counts)
        await self._pause(self._bounds.pause_seconds)

    async def record_failure(self, error: CallFailedError) -> None:
        """Record a failed visit and pause.

        Raises:
            PopulationError: too many visits in a row have failed.
        """
        self.counts.errors += 1
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= MAX_ERRORS_IN_A_ROW:
            raise PopulationError(
                f"{MAX_ERRORS_IN_A_ROW} calls in a row failed; the last: {error}",
                field=error.field,
                reason=error.reason,
                limit=str(MAX_ERRORS_IN_A_ROW),
            )
        await self._pause(lambda: ERROR_PAUSE_SECONDS)

    async def _pause(self, seconds: Callable[[], float]) -> None:
        """Evaluate the pause every second, since a pause may become shorter while waiting."""
        started = time.monotonic()
        while not self.is_over and (left := started + seconds() - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), min(left, 1.0))
