"""Loop that drives a sink: schedule of flushes, and recovery after failures.

The sink itself runs in a thread.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from services.chassis.retries import retry_delay
from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.lake.ledger import Segment
from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.spool.log import LogUnavailableError
from services.feedback.store.database import FencedError, LedgerUnavailableError

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
FIRST_RETRY_SECONDS = 0.2
LAST_RETRY_SECONDS = 10.0
CHECK_SECONDS = 30.0
# Transient failures, or failures resolved by reading the ledger again.
FAILURES = (FencedError, LedgerUnavailableError, LogUnavailableError, ObjectStoreError, OSError)


class SinkableLog(Protocol):
    """Log interface of the loop."""

    @property
    def partition(self) -> int: ...
    @property
    def end_offset(self) -> int: ...


class Flusher(Protocol):
    """Sink interface of the loop."""

    @property
    def position(self) -> int: ...
    def assign(self) -> None: ...
    def check(self) -> None: ...
    def flush(self) -> Segment | None: ...


class SinkLoop:
    """Loop with a flush when enough events wait, or an event has waited long enough.

    Args:
        on_committed: Called on the event loop with an offset; all records below are in the ledger.
        executor: Executor for blocking flushes; None means the loop's default executor.
        check_seconds: Period of checks of an idle partition.
    """

    def __init__(
        self,
        stream: str,
        waiting: SinkableLog,
        sink: Flusher,
        flush_rows: int,
        flush_seconds: float,
        on_committed: Callable[[int], None] = lambda end: None,
        executor: Executor | None = None,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._check_seconds, self._checked = check_seconds, time.monotonic()
        self._stream, self._log, self._sink, self._executor = stream, waiting, sink, executor
        self._flush_rows, self._flush_seconds = flush_rows, flush_seconds
        self._on_committed = on_committed
        self._behind_since: float | None = None
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Flush until `stop`.

        Raises:
            LogError: The log needs an operator.
        """
        failures = 0
        while not self._stopped.is_set():
            wait_seconds = POLL_SECONDS
            waiting, now = self._waiting(), time.monotonic()
            if not waiting:
                self._behind_since = None
            elif self._behind_since is None:
                self._behind_since = now
            behind_seconds = now - self._behind_since if self._behind_since is not None else 0.0
            partition = str(self._log.partition)
            metrics.LAG_EVENTS.labels(self._stream, partition).set(waiting)
            metrics.LAG_SECONDS.labels(self._stream, partition).set(behind_seconds)
            if waiting >= self._flush_rows or (
                waiting > 0 and behind_seconds >= self._flush_seconds
            ):
                if await self._attempt(self._sink.flush):
                    failures = 0
                    continue
                failures += 1
                wait_seconds = retry_delay(failures, FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS)
            elif not waiting and now - self._checked >= self._check_seconds:
                # A flush notices a restored database, but an idle partition has none.
                self._checked = now
                await self._attempt(self._sink.check)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), wait_seconds)

    def stop(self) -> None:
        """Let `run` end after the current flush, since a flush in a thread cannot be cancelled."""
        self._stopped.set()

    async def finish(self) -> None:
        """Sink the remaining events until the first failure; the rest follows at the next start."""
        while self._waiting() and await self._attempt(self._sink.flush):
            pass

    def _waiting(self) -> int:
        return self._log.end_offset - self._sink.position

    async def _attempt(self, work: Callable[[], Segment | None]) -> bool:
        """Run a flush or a check, and return False if a retry is needed."""
        # Events that arrive during the flush start a new wait.
        end_before = self._log.end_offset
        try:
            segment = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        except FAILURES as error:
            # A failed flush may still have committed, for example with a lost response.
            # Acquire the partition again, since only the ledger knows the committed end.
            metrics.SINK_FAILURES.labels(self._stream, type(error).__name__).inc()
            log.warning(
                "flush failed, retrying",
                extra=fields(stream=self._stream, error=type(error).__name__),
            )
            try:
                await asyncio.get_running_loop().run_in_executor(self._executor, self._sink.assign)
            except FAILURES as again:
                log.warning(
                    "lease not acquired, retrying",
                    extra=fields(stream=self._stream, error=type(again).__name__),
                )
            return False
        finally:
            # Report also after a failure: the position may have moved in `assign`.
            self._on_committed(self._sink.position)
        if self._sink.position >= end_before:
            self._behind_since = None
        if segment:
            metrics.SEGMENTS.labels(self._stream).inc()
            metrics.ROWS.labels(self._stream).inc(segment.rows)
            metrics.DEAD_LETTERS.labels(self._stream).inc(segment.dead_letters)
            metrics.TOMBSTONES.labels(self._stream).inc(segment.tombstones)
            log.info(
                "segment committed",
                extra=fields(
                    stream=self._stream,
                    sequence=segment.sequence,
                    start=segment.start_offset,
                    end=segment.end_offset,
                    dead_letters=segment.dead_letters,
                    tombstones=segment.tombstones,
                ),
            )
        return True
