"""Relay from the spool to the broker: read → publish → trim.

Records without acknowledgement are sent again: at least once, with possible duplicates. The spool's
fsync remains the acknowledgement to the caller; an outage of the broker only increases the size of
the spool. The relay blocks and runs in its own thread.
"""

import logging
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.spool.log import Record

log = logging.getLogger(__name__)

POLL_SECONDS = 0.05
FIRST_RETRY_SECONDS = 0.2
LAST_RETRY_SECONDS = 5.0


class PublishError(Exception):
    """Some records were not acknowledged; any of them may be in the topic.

    The text gives the reason in constant words.
    """


class Publisher(Protocol):
    """Publisher to a broker."""

    def publish(self, records: Sequence[Record]) -> None:
        """Publish records and return once all required replicas have all records.

        The call ends by its own deadline.

        Raises:
            PublishError: Not all records were acknowledged.
        """

    def close(self) -> None:
        """Close the connection to the broker."""


class SpoolReader(Protocol):
    """Spool interface of the relay."""

    @property
    def start_offset(self) -> int: ...
    @property
    def end_offset(self) -> int: ...
    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]: ...
    def trim(self, before: int) -> None: ...


class Relay:
    """Relay of one stream to its topic, with a single batch in memory.

    Args:
        on_relayed: Called on the relay's thread with an offset; the broker has all records below.
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
        # After a crash the first file may contain relayed records. They are sent again, and the
        # sink recognises them.
        self._position = spool.start_offset
        self._behind_since: float | None = None
        self._failing = False
        self._stopped = threading.Event()

    @property
    def waiting(self) -> int:
        """Number of acknowledged events not yet at the broker."""
        return self._spool.end_offset - self._position

    def step(self) -> bool:
        """Relay one batch and return False if no records wait.

        Raises:
            PublishError: Not all records were acknowledged.
            LogError: The spool needs an operator.
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
        """Relay until `stop`.

        Raises:
            LogError: The spool needs an operator.
        """
        retry_seconds = FIRST_RETRY_SECONDS
        while not self._stopped.is_set():
            self._update_lag_metrics()
            try:
                wait_seconds = 0.0 if self.step() else POLL_SECONDS
                retry_seconds, self._failing = FIRST_RETRY_SECONDS, False
            except PublishError as error:
                self._record_failure(error)
                wait_seconds = retry_seconds
                retry_seconds = min(2 * retry_seconds, LAST_RETRY_SECONDS)
            self._stopped.wait(wait_seconds)

    def stop(self) -> None:
        """Let `run` end after the current batch."""
        self._stopped.set()

    def finish(self, seconds: float) -> None:
        """Relay the remaining records within a time limit; the rest follows at the next start."""
        deadline = time.monotonic() + seconds
        try:
            while not self._failing and time.monotonic() < deadline and self.step():
                pass
        except PublishError as error:
            self._record_failure(error)
        self._update_lag_metrics()
        self.close()

    def close(self) -> None:
        """Close the connection to the broker."""
        self._publisher.close()

    def _record_failure(self, error: PublishError) -> None:
        self._failing = True
        metrics.RELAY_FAILURES.labels(self._stream).inc()
        log.warning(
            "batch not relayed, retrying",
            extra=fields(stream=self._stream, why=str(error), waiting=self.waiting),
        )
        _release_frames(error)

    def _update_lag_metrics(self) -> None:
        waiting, now = self.waiting, time.monotonic()
        if not waiting:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        behind_seconds = 0.0 if self._behind_since is None else now - self._behind_since
        metrics.RELAY_LAG_EVENTS.labels(self._stream).set(waiting)
        metrics.RELAY_LAG_SECONDS.labels(self._stream).set(behind_seconds)


def _release_frames(error: BaseException) -> None:
    """Drop the local variables of the calls that have failed.

    kafka-python's futures hold their own exception, and the frames of its traceback hold the batch.
    Such a cycle lives until a full garbage collection, which counts objects and not bytes: one
    after dozens of failures, with up to `relay_bytes` for each.
    """
    found: BaseException | None = error
    while found is not None:
        traceback.clear_frames(found.__traceback__)
        found = found.__cause__ or found.__context__
