"""The bounds of a crowd's run and the counts of what happened in it. A thumb counts once the system
has acknowledged it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from infra.simulated_users.client import Answer, CallFailedError
from training.errors import ConfigError, DetailedError

# So many visits in a row that end in an error are no accident: the crowd stops and says so.
MOST_ERRORS_IN_A_ROW = 20
# A visit that failed is not tried again at once.
ERROR_PAUSE_SECONDS = 0.5


class CrowdError(DetailedError, RuntimeError):
    """The system does not answer people any more; the text says what it said last."""

    reason = "FAILED"


@dataclass(frozen=True)
class Bounds:
    """A run ends at whichever comes first. `pause_seconds`: rest of each worker after a visit,
    asked anew every second.
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
    """What happened. `turns`: those that a version answered, which is what the log holds;
    `refused`: by the guard. `waits`: seconds from question to whole answer.
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
        """Everything that the feedback log has of these people."""
        return self.thumbs + self.corrections

    def saw(self, answer: Answer) -> None:
        """An answer came."""
        self.answers += 1
        self.turns += bool(answer.model_version)
        self.refused += answer.refused
        self.by_version[answer.model_version] = self.by_version.get(answer.model_version, 0) + 1
        self.waits.append(answer.seconds)

    def text(self) -> str:
        """For a progress line."""
        parts = [
            f"{self.answers} answers",
            f"{self.up} up",
            f"{self.down} down",
            f"{self.corrections} corrections",
        ]
        return ", ".join([*parts, f"{self.errors} errors"] if self.errors else parts)


class Run:
    """One run of a crowd under way."""

    def __init__(
        self, bounds: Bounds, watch: Callable[[Counts], None], stop: asyncio.Event
    ) -> None:
        self.counts = Counts()
        self._bounds, self._watch, self._stop = bounds, watch, stop
        self._began = time.monotonic()
        self._promised = self._errors_in_a_row = 0

    @property
    def is_over(self) -> bool:
        if self._stop.is_set() or self._promised >= self._bounds.thumbs:
            return True
        return time.monotonic() - self._began >= self._bounds.seconds

    @contextmanager
    def thumb(self, up: bool) -> Iterator[bool]:
        """True if there is room for one more. It is promised before it is sent, so that concurrent
        people keep the bound.
        """
        if self._promised >= self._bounds.thumbs:
            yield False
            return
        self._promised += 1
        try:
            yield True
        except CallFailedError:
            self._promised -= 1
            raise
        self.counts.up += up
        self.counts.down += not up

    async def visited(self) -> None:
        """A visit went well."""
        self._errors_in_a_row = 0
        self._watch(self.counts)
        await self._rest(self._bounds.pause_seconds)

    async def failed(self, error: CallFailedError) -> None:
        """A visit ended in an error. Raises: CrowdError, if that goes on and on."""
        self.counts.errors += 1
        self._errors_in_a_row += 1
        if self._errors_in_a_row >= MOST_ERRORS_IN_A_ROW:
            raise CrowdError(
                f"{MOST_ERRORS_IN_A_ROW} calls in a row failed; the last: {error}",
                field=error.field,
                reason=error.reason,
                limit=str(MOST_ERRORS_IN_A_ROW),
            )
        await self._rest(lambda: ERROR_PAUSE_SECONDS)

    async def _rest(self, seconds: Callable[[], float]) -> None:
        """Asked anew every second: a pause may become shorter while it lasts."""
        began = time.monotonic()
        while not self.is_over and (left := began + seconds() - time.monotonic()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), min(left, 1.0))
