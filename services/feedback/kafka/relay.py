"""From the spool to the broker: read → publish → trim. What is not acknowledged is sent again:
duplicates yes, loss never.

The spool's fsync stays the ack to the caller; how long the broker is away changes nothing but the
spool's size. Blocking: runs in a thread of its own.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.spool.frames import Record

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
FIRST_RETRY_SECONDS = 0.2
LAST_RETRY_SECONDS = 5.0


class PublishError(Exception):
    """Not all was acknowledged: some of it may be in the topic, some not. Says why in constant
    words.
    """


class Publisher(Protocol):
    """The broker's side."""

    def publish(self, records: Sequence[Record]) -> None:
        """Return once all replicas that count have all records. Ends by its own deadline. Raises:
        PublishError.
        """

    def close(self) -> None:
        """Let go of the broker."""


class SpoolReader(Protocol):
    """The spool, as the relay reads it."""

    @property
    def start_offset(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]: ...
    def trim(self, before: int) -> None: ...


class Relay:
    """One stream's way to its topic; one batch at a time, so that what it holds in memory is
    bounded by a batch.

    `on_relayed(end)` is called from the relay's thread once everything before `end` is with the
    broker.
    """

    def __init__(
        self,
        stream: str,
        spool: SpoolReader,
        publisher: Publisher,
        max_records: int,
        max_bytes: int,
        on_relayed: Callable[[int], None] = lambda end: None,
    ) -> None:
        self._stream, self._spool, self._publisher = stream, spool, publisher
        self._max_records, self._max_bytes, self._on_relayed = max_records, max_bytes, on_relayed
        # After a crash the file at the front may hold what was relayed already: it goes again, the
        # sink knows it.
        self._position = spool.start_offset
        self._behind_since: float | None = None
        self._failing = False
        self._stopped = threading.Event()

    @property
    def waiting(self) -> int:
        """Acknowledged events that the broker does not have yet."""
        return self._spool.end_offset - self._position

    def step(self) -> bool:
        """Relay one batch; False if nothing waits. Raises: PublishError, and LogError where a
        person must look.
        """
        records = self._spool.read(self._position, self._max_records, self._max_bytes)
        if not records:
            return False
        self._publisher.publish(records)
        self._position = records[-1].offset + 1
        self._spool.trim(self._position)
        self._on_relayed(self._position)
        metrics.RELAYED.labels(self._stream).inc(len(records))
        return True

    def run(self) -> None:
        """Until `stop`. Raises: LogError."""
        retry_seconds = FIRST_RETRY_SECONDS
        while not self._stopped.is_set():
            self._update_lag_metrics()
            try:
                wait_seconds = 0.0 if self.step() else POLL_SECONDS
                retry_seconds, self._failing = FIRST_RETRY_SECONDS, False
            except PublishError as error:
                self._record_failure(error)
                wait_seconds, retry_seconds = (
                    retry_seconds,
                    min(2 * retry_seconds, LAST_RETRY_SECONDS),
                )
            self._stopped.wait(wait_seconds)

    def stop(self) -> None:
        """Let `run` end after the batch that is under way."""
        self._stopped.set()

    def finish(self, seconds: float) -> None:
        """Relay what waits, if that works and takes no longer: the rest is there at the next start."""
        deadline = time.monotonic() + seconds
        try:
            while not self._failing and time.monotonic() < deadline and self.step():
                pass
        except PublishError as error:
            self._record_failure(error)
        self._update_lag_metrics()
        self._publisher.close()

    def _record_failure(self, error: PublishError) -> None:
        self._failing = True
        metrics.RELAY_FAILURES.labels(self._stream).inc()
        log.warning(
            "not relayed, will be sent again",
            extra=fields(stream=self._stream, why=str(error), waiting=self.waiting),
        )

    def _update_lag_metrics(self) -> None:
        waiting, now = self.waiting, time.monotonic()
        if not waiting:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        behind_seconds = 0.0 if self._behind_since is None else now - self._behind_since
        metrics.RELAY_LAG_EVENTS.labels(self._stream).set(waiting)
        metrics.RELAY_LAG_SECONDS.labels(self._stream).set(behind_seconds)
