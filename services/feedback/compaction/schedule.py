"""Schedule of compaction, and the command for an immediate pass.

Every replica checks periodically for a due pass, and one replica runs the pass.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.compaction.compaction import Compaction, StoppedError
from services.feedback.events import Stream
from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.store.database import FencedError, LedgerUnavailableError

log = logging.getLogger(__name__)

POLL_SECONDS = 30.0
FAILURES = (FencedError, LedgerUnavailableError, ObjectStoreError)


class CompactionSchedule:
    """One pass per stream every `every_seconds` across all replicas.

    The period counts from the end of the last complete pass.
    """

    def __init__(
        self, compaction: Compaction, every_seconds: float, poll_seconds: float = POLL_SECONDS
    ) -> None:
        self._compaction = compaction
        self._every_seconds, self._poll_seconds = every_seconds, min(poll_seconds, every_seconds)
        self._stopped = asyncio.Event()

    async def run(self) -> None:
        """Check for due passes until `stop`; failed passes are repeated at the next check."""
        metrics.COMPACTION_PERIOD_SECONDS.set(self._every_seconds)
        for stream in Stream:
            metrics.COMPACTION_TIME_SECONDS.labels(stream).set(time.time())
            metrics.COVERS.labels(stream)
            for reason in metrics.DROPPED_REASONS:
                metrics.DROPPED_ROWS.labels(stream, reason)
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), self._poll_seconds)
            for stream in Stream:
                if self._stopped.is_set():
                    return
                try:
                    await asyncio.to_thread(self._compaction.run, stream, self._every_seconds)
                except FAILURES as error:
                    metrics.COMPACTION_FAILURES.labels(stream, type(error).__name__).inc()
                    log.warning(
                        "compaction pass failed, retrying",
                        extra=fields(stream=stream, error=type(error).__name__),
                    )
                except StoppedError:
                    continue
                with contextlib.suppress(LedgerUnavailableError):
                    if last_us := await asyncio.to_thread(self._compaction.last_pass_us, stream):
                        metrics.COMPACTION_TIME_SECONDS.labels(stream).set(last_us / 1_000_000)

    def stop(self) -> None:
        """Let `run` end after the current step."""
        self._stopped.set()
        self._compaction.stop()


@asynccontextmanager
async def run_compaction(compaction: Compaction, every_seconds: float) -> AsyncIterator[None]:
    """Run the schedule until the block ends and the current step is done.

    Args:
        every_seconds: Period of the passes; 0 disables compaction.
    """
    if not every_seconds:
        yield
        return
    schedule = CompactionSchedule(compaction, every_seconds)
    running = asyncio.create_task(schedule.run())
    try:
        yield
    finally:
        schedule.stop()
        await running


def compact_all(compaction: Compaction, write_line: Callable[[str], None] = print) -> int:
    """Run one pass of every stream now and return the exit status.

    The status is 1 if any work was left undone.

    Raises:
        ObjectStoreError: The store is unavailable.
    """
    undone = 0
    for stream in Stream:
        try:
            result = compaction.run(stream)
        except (FencedError, LedgerUnavailableError) as error:
            write_line(f"{stream}: incomplete: {error}")
            undone += 1
            continue
        if result is None:
            write_line(f"{stream}: another process owns the compaction lease")
            undone += 1
            continue
        left_out = " ".join(f"{reason}={rows}" for reason, rows in sorted(result.dropped.items()))
        write_line(
            f"{stream}: replaced={result.replaced} covers={result.covers} "
            f"deleted={result.deleted} {left_out}".rstrip()
        )
        undone += not result.complete
    return 1 if undone else 0
