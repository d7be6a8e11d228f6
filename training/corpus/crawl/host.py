"""State of a host during a crawl: politeness, failures and its part of the queue."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from training.corpus.crawl.fates import Fate
from training.corpus.crawl.frontier import Result, Target
from training.corpus.crawl.robots import Robots

MAX_TRIES = 3
# Answers 429 and 503 in a row, after which the host is left alone for the rest of the crawl.
MAX_REFUSALS = 10
# URLs without an answer in a row, likewise.
MAX_FAILURES = 5
FIRST_BACKOFF_SECONDS = 1.0


@dataclass(slots=True, eq=False)
class Host:
    """State of a host.

    Attributes:
        delay_seconds: time between the starts of two requests.
        concurrency: requests at the same time, at most.
        stored: number of stored pages.
        next_time: earliest time of the next request, on the clock of the event loop.
        in_flight: number of requests without an answer yet.
        is_scheduled: the host is in the schedule of the round.
        queue, last, is_scanned: pending URLs of the round, the last one read from the frontier,
            and whether all were read.
        robots: rules by scheme.
        closed: result for all further URLs of the host; None while it is requested.
    """

    name: str
    delay_seconds: float
    concurrency: int
    stored: int = 0
    next_time: float = 0.0
    in_flight: int = 0
    is_scheduled: bool = False
    queue: deque[Target] = field(default_factory=deque)
    last: Target | None = None
    is_scanned: bool = False
    robots: dict[str, Robots] = field(default_factory=dict)
    closed: Result | None = None
    tries: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    refusals: int = 0

    def begin_round(self) -> None:
        """Forget the queue of the previous round."""
        self.queue.clear()
        self.tries.clear()
        self.last, self.is_scanned = None, False

    def apply_robots(self, scheme: str, robots: Robots, wait_seconds: float) -> None:
        """Store the rules of an origin and obey its Crawl-delay.

        Args:
            wait_seconds: longest accepted delay; a longer one closes the host.
        """
        self.robots[scheme] = robots
        if robots.delay_seconds > wait_seconds:
            value = f"crawl-delay {robots.delay_seconds:g} s (at most {wait_seconds:g} s)"
            self.closed = Result(Fate.HOST_BUSY, value)
        elif robots.delay_seconds:
            self.next_time += max(robots.delay_seconds - self.delay_seconds, 0)
            self.delay_seconds = max(self.delay_seconds, robots.delay_seconds)
            self.concurrency = 1

    def answered(self) -> None:
        """Note an answer other than a refusal."""
        self.failures = self.refusals = 0

    def refused(self, now: float, seconds: float | None, wait_seconds: float) -> None:
        """Wait after an answer 429 or 503.

        Args:
            seconds: value of Retry-After; None without.
            wait_seconds: longest accepted wait.
        """
        self.refusals += 1
        if seconds is not None and seconds > wait_seconds:
            value = f"retry-after {seconds:.0f} s (at most {wait_seconds:g} s)"
            self.closed = Result(Fate.HOST_BUSY, value)
        elif self.refusals >= MAX_REFUSALS:
            self.closed = Result(Fate.HOST_BUSY, f"{self.refusals} refusals in a row")
        else:
            backoff = self._backoff(self.refusals) if seconds is None else seconds
            self.next_time = max(self.next_time, now + min(backoff, wait_seconds))

    def failed(self, now: float, tries: int, reason: str, wait_seconds: float) -> None:
        """Wait after a request without an answer.

        Args:
            tries: requests of the same URL until now; the last one counts for the host.
            reason: fate of the URL.
        """
        if tries >= MAX_TRIES:
            self.failures += 1
        if self.failures >= MAX_FAILURES:
            value = f"{self.failures} URLs in a row without an answer, the last: {reason}"
            self.closed = Result(Fate.HOST_UNREACHABLE, value)
        elif tries < MAX_TRIES:
            self.next_time = max(self.next_time, now + min(self._backoff(tries), wait_seconds))

    def _backoff(self, number: int) -> float:
        """Return the seconds before a repetition; they double with each."""
        return max(self.delay_seconds, FIRST_BACKOFF_SECONDS) * 2.0 ** (number - 1)


def retry_after(value: str) -> float | None:
    """Return the seconds of a Retry-After header, also from a date; None if absent or malformed."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        then = parsedate_to_datetime(value)
        return max(then.timestamp() - time.time(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None
