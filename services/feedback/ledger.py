"""The commit point: a contiguous list of segments in a database. What is not in here does not exist for readers.

A writer holds a lease with an epoch; a commit moves the partition's end from exactly the lease's end, in one transaction.
"""

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Row, create_engine, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from services.chassis.errors import UnavailableError
from services.feedback import tables

IDS_A_QUERY = 500


class FencedError(Exception):
    """Another writer has the partition, or has moved its end: discard what is buffered and take a new lease."""


class LedgerUnavailableError(UnavailableError):
    """The database did not do it, or it is not known whether it did."""

    reason = "FEEDBACK_LEDGER_UNAVAILABLE"


@dataclass(frozen=True)
class Lease:
    """The right to write one partition, until the next lease. `end_offset` is exclusive: the next segment starts there."""

    stream: str
    topic_id: str
    partition: int
    epoch: int
    end_offset: int
    sequence: int


@dataclass(frozen=True)
class Segment:
    """One committed range of offsets, `start_offset` to before `end_offset`."""

    stream: str
    topic_id: str
    partition: int
    sequence: int
    start_offset: int
    end_offset: int
    object_key: str
    sha256: str
    rows: int
    dead_letters: int
    tombstones: int
    commit_us: int


@dataclass(frozen=True)
class DeadLetter:
    """A record that could not be decoded."""

    offset: int
    error: str
    payload: bytes


@dataclass(frozen=True)
class Batch:
    """What becomes of the offsets from the lease's end to before `end_offset`: rows, dead letters, the rest tombstones."""

    end_offset: int
    object_key: str
    sha256: str
    rows: int
    dead_letters: Sequence[DeadLetter]
    fingerprints: Mapping[str, bytes]


Within = Callable[[Connection], None]


def open_database(url: str) -> Engine:
    """An engine whose commits survive power loss, with the tables made."""
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":
        if engine.url.database:
            Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    tables.metadata.create_all(engine)
    return engine


class Ledger:
    """Safe to call from several threads; every call blocks."""

    def __init__(self, engine: Engine, now_us: Callable[[], int] = lambda: time.time_ns() // 1_000) -> None:
        self._engine, self._now_us = engine, now_us

    def lease(self, stream: str, topic_id: str, partition: int) -> Lease:
        """Take the partition over; whoever held it is fenced from now on. Raises: LedgerUnavailableError."""
        table = tables.partitions
        mine = (table.c.topic_id == topic_id) & (table.c.partition == partition)
        with self._transaction() as connection:
            taken = connection.execute(update(table).where(mine).values(epoch=table.c.epoch + 1))
            if not taken.rowcount:
                row = {"topic_id": topic_id, "partition": partition, "stream": stream, "epoch": 1, "end_offset": 0}
                connection.execute(insert(table).values(row))
            found = connection.execute(select(table.c.epoch, table.c.end_offset).where(mine)).one()
            last = tables.segments.c
            newest = select(func.max(last.sequence)).where(last.stream == stream, last.partition == partition)
            sequence = connection.execute(newest).scalar() or 0
        return Lease(stream, topic_id, partition, found.epoch, found.end_offset, sequence)

    def commit(self, lease: Lease, batch: Batch, within: Within) -> tuple[Lease, Segment]:
        """Append one segment. `within` writes what must be in step with it, in the same transaction.

        Raises:
            FencedError: the lease is not the newest, or the end has moved.
            LedgerUnavailableError: it is not known whether it was committed; a new lease tells.
        """
        segment = self._segment(lease, batch)
        with self._transaction() as connection:
            self._advance(connection, lease, batch.end_offset)
            connection.execute(insert(tables.segments).values(vars(segment)))
            coordinates = {"topic_id": lease.topic_id, "partition": lease.partition}
            letters = [
                coordinates
                | {
                    "offset": letter.offset,
                    "error": letter.error,
                    "payload_base64": base64.b64encode(letter.payload).decode(),
                }
                for letter in batch.dead_letters
            ]
            ids = [
                {"stream": lease.stream, "event_id": event_id, "fingerprint": fingerprint}
                for event_id, fingerprint in batch.fingerprints.items()
            ]
            for table, rows in ((tables.dead_letters, letters), (tables.event_ids, ids)):
                if rows:
                    connection.execute(insert(table), rows)
            within(connection)
        return replace(lease, end_offset=segment.end_offset, sequence=segment.sequence), segment

    def segments(self, stream: str, after_sequence: int = 0, limit: int | None = None) -> list[Segment]:
        """Committed segments in order. Raises: LedgerUnavailableError."""
        table = tables.segments
        query = (
            select(table)
            .where(table.c.stream == stream, table.c.sequence > after_sequence)
            .order_by(table.c.sequence)
            .limit(limit)
        )
        with self._transaction() as connection:
            return [_segment(row) for row in connection.execute(query)]

    def end_offset(self, topic_id: str, partition: int) -> int:
        """One past the last committed offset. Raises: LedgerUnavailableError."""
        table = tables.partitions
        query = select(table.c.end_offset).where(table.c.topic_id == topic_id, table.c.partition == partition)
        with self._transaction() as connection:
            return connection.execute(query).scalar() or 0

    def dead_letter_offsets(self, topic_id: str, partition: int) -> set[int]:
        """Raises: LedgerUnavailableError."""
        table = tables.dead_letters
        query = select(table.c.offset).where(table.c.topic_id == topic_id, table.c.partition == partition)
        with self._transaction() as connection:
            return set(connection.execute(query).scalars())

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> dict[str, bytes]:
        """Those of the ids that are committed, with their fingerprints. Raises: LedgerUnavailableError."""
        table, found = tables.event_ids, {}
        with self._transaction() as connection:
            for at in range(0, len(event_ids), IDS_A_QUERY):
                query = select(table.c.event_id, table.c.fingerprint).where(
                    table.c.stream == stream, table.c.event_id.in_(event_ids[at : at + IDS_A_QUERY])
                )
                found.update({row.event_id: row.fingerprint for row in connection.execute(query)})
        return found

    def _segment(self, lease: Lease, batch: Batch) -> Segment:
        accounted = batch.rows + len(batch.dead_letters)
        return Segment(
            stream=lease.stream,
            topic_id=lease.topic_id,
            partition=lease.partition,
            sequence=lease.sequence + 1,
            start_offset=lease.end_offset,
            end_offset=batch.end_offset,
            object_key=batch.object_key,
            sha256=batch.sha256,
            rows=batch.rows,
            dead_letters=len(batch.dead_letters),
            tombstones=batch.end_offset - lease.end_offset - accounted,
            commit_us=self._now_us(),
        )

    def _advance(self, connection: Connection, lease: Lease, end_offset: int) -> None:
        """The first statement of a commit: takes the write lock, and fails unless the end is where the lease says."""
        table = tables.partitions
        moved = connection.execute(
            update(table)
            .where(
                table.c.topic_id == lease.topic_id,
                table.c.partition == lease.partition,
                table.c.epoch == lease.epoch,
                table.c.end_offset == lease.end_offset,
            )
            .values(end_offset=end_offset)
        )
        if moved.rowcount != 1:
            raise FencedError(f"epoch {lease.epoch} of topic {lease.topic_id} is not the newest, or its end has moved")

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError as error:
            raise FencedError("another writer has committed the same segment or event") from error
        except SQLAlchemyError as error:
            raise LedgerUnavailableError("the feedback ledger does not answer: nothing was stored") from error


def _segment(row: Row[Any]) -> Segment:
    return Segment(**row._mapping)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # The driver would open transactions by its own rules, and reads outside of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # The spool is trimmed after a commit, so the commit must have reached the disk.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
