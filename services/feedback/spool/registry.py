"""Register of write-ahead logs in the database: kept after the end of the process.

A row exists from before the first acknowledgement until its owner ends with an empty log. A row
without recent reports has no live owner, and its log may hold acknowledged events, also after a
crash that left no report of its last events.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, delete, insert, select, update

from services.chassis.errors import DetailedError, UnavailableError
from services.chassis.telemetry import fields
from services.chassis.threads import run_to_end
from services.feedback import metrics
from services.feedback.store import tables
from services.feedback.store.database import database_clock_us, transaction

log = logging.getLogger(__name__)

REPORT_SECONDS = 10.0
# Several reports, so that a slow database makes no log ownerless.
ABSENT_SECONDS = 60.0


class EventsWaitingError(DetailedError):
    """Process ends with acknowledged events left only in its write-ahead logs.

    `limit` is the number of events.
    """

    reason = "EVENTS_WAITING"


@dataclass(frozen=True)
class LogState:
    """State of an open log: `waiting` acknowledged events are at no broker yet."""

    stream: str
    topic_id: str
    directory: Path
    end_offset: int
    waiting: int


@dataclass(frozen=True)
class RegisteredLog:
    """Row of the register; `silent_seconds` is the time since the last report."""

    topic_id: str
    stream: str
    owner: str
    directory: str
    end_offset: int
    waiting: int
    silent_seconds: float

    @property
    def is_absent(self) -> bool:
        """Return True if the owner has not reported for ABSENT_SECONDS."""
        return self.silent_seconds > ABSENT_SECONDS


class SpoolRegistry:
    """Register in the database; every call blocks and raises LedgerUnavailableError.

    Args:
        owner: name of this process's host; on Kubernetes the pod, whose claim has the log.
    """

    def __init__(self, engine: Engine, owner: str) -> None:
        self._engine, self._owner = engine, owner
        self._mutex = threading.Lock()
        self._ended: set[str] = set()

    def report(self, states: Sequence[LogState]) -> None:
        """Record this process as owner of the logs, with their states, unless they have ended."""
        # A report in a thread may outlive its task and must not undo `close`.
        with self._mutex:
            self._write([state for state in states if state.topic_id not in self._ended])

    def _write(self, states: Sequence[LogState]) -> None:
        table = tables.spools
        with transaction(self._engine) as connection:
            now_us = database_clock_us(connection)
            for state in states:
                row = {
                    "stream": state.stream,
                    "owner": self._owner,
                    "directory": str(state.directory),
                    "end_offset": state.end_offset,
                    "waiting": state.waiting,
                    "report_us": now_us,
                }
                mine = table.c.topic_id == state.topic_id
                if not connection.execute(update(table).where(mine).values(row)).rowcount:
                    connection.execute(insert(table).values(row | {"topic_id": state.topic_id}))

    def remove(self, topic_id: str) -> bool:
        """Remove an empty or lost log; return False for an unknown log."""
        with transaction(self._engine) as connection:
            mine = tables.spools.c.topic_id == topic_id
            return connection.execute(delete(tables.spools).where(mine)).rowcount > 0

    def logs(self) -> list[RegisteredLog]:
        """Return all rows, by owner and stream."""
        table = tables.spools
        with transaction(self._engine) as connection:
            now_us = database_clock_us(connection)
            rows = connection.execute(select(table).order_by(table.c.owner, table.c.stream)).all()
        return [
            RegisteredLog(
                row.topic_id,
                row.stream,
                row.owner,
                row.directory,
                row.end_offset,
                row.waiting,
                max(0, now_us - row.report_us) / 1e6,
            )
            for row in rows
        ]

    def close(self, state: LogState) -> None:
        """Record the end of this process: remove an empty log, or report its remaining events."""
        if state.waiting:
            log.error(
                "acknowledged events wait in the write-ahead log of an ended process",
                extra=fields(
                    stream=state.stream,
                    waiting=state.waiting,
                    log_id=state.topic_id,
                    directory=str(state.directory),
                    owner=self._owner,
                ),
            )
        try:
            with self._mutex:
                self._ended.add(state.topic_id)
                if state.waiting:
                    self._write([state])
                else:
                    self.remove(state.topic_id)
        except UnavailableError:
            # The row stays as last reported, so the log counts as absent.
            log.warning("end of the write-ahead log not recorded", extra=fields(owner=self._owner))


def require_empty(*states: LogState) -> None:
    """Check the logs of this process for acknowledged events.

    Raises:
        EventsWaitingError: Acknowledged events exist only in the logs.
    """
    if waiting := sum(state.waiting for state in states):
        raise EventsWaitingError(
            f"{waiting} acknowledged events wait in the write-ahead logs",
            field="spool_directory",
            limit=str(waiting),
        )


Labels = tuple[str, str]


def update_absent_metrics(logs: Sequence[RegisteredLog], shown: set[Labels]) -> None:
    """Set the metrics of logs without a live owner.

    Args:
        logs: All rows of the register.
        shown: Labels with a value, updated here. A value never disappears in between, since a gap
            would reset the alert.
    """
    absent: dict[Labels, list[RegisteredLog]] = {}
    for each in logs:
        if each.is_absent:
            absent.setdefault((each.stream, each.owner), []).append(each)
    for labels, found in absent.items():
        # Several logs of one owner and stream: a volume was lost and created again.
        metrics.ABSENT_SPOOL_SECONDS.labels(*labels).set(max(one.silent_seconds for one in found))
        metrics.ABSENT_SPOOL_EVENTS.labels(*labels).set(sum(one.waiting for one in found))
    for labels in shown - absent.keys():
        metrics.ABSENT_SPOOL_SECONDS.remove(*labels)
        metrics.ABSENT_SPOOL_EVENTS.remove(*labels)
    shown.clear()
    shown.update(absent)


async def report_periodically(
    registry: SpoolRegistry,
    states: Callable[[], Sequence[LogState]],
    every_seconds: float = REPORT_SECONDS,
) -> None:
    """Report the logs of this process, and the absent ones as metrics, until cancelled."""
    shown: set[Labels] = set()
    while True:
        await asyncio.sleep(every_seconds)
        try:
            await run_to_end(registry.report, states())
            update_absent_metrics(await run_to_end(registry.logs), shown)
        except UnavailableError:
            log.warning("write-ahead logs not reported, retrying")
