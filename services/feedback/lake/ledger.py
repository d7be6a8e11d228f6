"""The commit point: a contiguous list of segments in a database. What is not in here does not exist
for readers.

A writer holds a lease with an epoch; a commit moves the partition's end from exactly the lease's
end, in one transaction, and the transactions of a stream go one after another: their sequence is
the order in which readers see them.
"""

import base64
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from services.chassis.errors import DetailedError, UnavailableError
from services.feedback import tables
from services.feedback.chunks import chunks
from services.feedback.lake.compacted_segments import (
    PAGE_SIZE,
    ReadableSegment,
    pages,
    readable_segments,
)
from services.feedback.lake.retracted import retracted_answers
from services.feedback.principals.erased_rows import Owner, erased_among

MAX_OFFSET = 2**63 - 1
_LOCK_STREAM = text("""
    INSERT INTO streams (stream, sequence, plain_sequence) VALUES (:stream, :step, 0)
    ON CONFLICT (stream) DO UPDATE SET sequence = streams.sequence + :step
    RETURNING sequence, plain_sequence
""")


class FencedError(DetailedError):
    """Another writer has the partition, or has moved its end: discard what is buffered and take a
    new lease.
    """

    reason = "FENCED"


class ErasedConcurrentlyError(FencedError):
    """What a batch would write was erased since it was composed: compose it anew."""


class LedgerUnavailableError(UnavailableError):
    """The database did not do it, or it is not known whether it did."""

    reason = "FEEDBACK_LEDGER_UNAVAILABLE"


@dataclass(frozen=True)
class Lease:
    """The right to write one partition, until the next lease. `end_offset` is exclusive: the next
    segment starts there.
    """

    stream: str
    topic_id: str
    partition: int
    epoch: int
    end_offset: int


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
    """What becomes of the offsets from the lease's end to before `end_offset`: rows, dead letters,
    the rest tombstones.

    `event_ids` are those of all its records: none of them is on its way any more. `owners` are
    those of its rows.
    """

    end_offset: int
    object_key: str
    sha256: str
    rows: int
    dead_letters: Sequence[DeadLetter]
    fingerprints: Mapping[str, bytes]
    event_ids: Collection[str]
    owners: Collection[Owner] = ()


InTransaction = Callable[[Connection], None]


class Ledger:
    """Safe to call from several threads; every call blocks."""

    def __init__(
        self, engine: Engine, now_us: Callable[[], int] = lambda: time.time_ns() // 1_000
    ) -> None:
        self._engine, self._now_us = engine, now_us

    def lease(self, stream: str, topic_id: str, partition: int) -> Lease:
        """Take the partition over; whoever held it is fenced from now on. Raises:
        LedgerUnavailableError.
        """
        table = tables.partitions
        mine = (table.c.topic_id == topic_id) & (table.c.partition == partition)
        with self._transaction() as connection:
            taken = connection.execute(update(table).where(mine).values(epoch=table.c.epoch + 1))
            if not taken.rowcount:
                row = {
                    "topic_id": topic_id,
                    "partition": partition,
                    "stream": stream,
                    "epoch": 1,
                    "end_offset": 0,
                }
                connection.execute(insert(table).values(row))
            found = connection.execute(select(table.c.epoch, table.c.end_offset).where(mine)).one()
        return Lease(stream, topic_id, partition, found.epoch, found.end_offset)

    def commit(
        self, lease: Lease, batch: Batch, in_transaction: InTransaction
    ) -> tuple[Lease, Segment]:
        """Append one segment. `within` writes what must be in step with it, in the same
        transaction.

        Raises:
            FencedError: the lease is not the newest, or the end has moved.
            ErasedMeanwhileError: an owner was erased; erasures take the stream's row too, so from
                here on none can come between.
            LedgerUnavailableError: it is not known whether it was committed; a new lease tells.
        """
        with self._transaction() as connection:
            sequence, _ = lock_stream(connection, lease.stream, step=1)
            segment = self._segment(lease, batch, sequence)
            if erased_among(connection, batch.owners):
                raise ErasedConcurrentlyError("an owner of these rows was erased meanwhile")
            self._advance_end(connection, lease, batch.end_offset)
            connection.execute(insert(tables.segments).values(vars(segment)))
            _insert_details(connection, segment, batch)
            delete_claims(connection, lease.stream, batch.event_ids)
            in_transaction(connection)
        return replace(lease, end_offset=segment.end_offset), segment

    @contextmanager
    def commits_blocked(self, stream: str) -> Iterator[Connection]:
        """A transaction during which nobody commits to the stream. Raises: LedgerUnavailableError."""
        with self._transaction() as connection:
            lock_stream(connection, stream)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that holds nobody up. Raises: LedgerUnavailableError."""
        with self._transaction() as connection:
            yield connection

    def segments(
        self, stream: str, after_sequence: int = 0, limit: int | None = None
    ) -> list[Segment]:
        """Committed segments in order, also those under covers. Raises: LedgerUnavailableError."""
        table = tables.segments
        query = select(table).where(table.c.stream == stream, table.c.sequence > after_sequence)
        with self._transaction() as connection:
            return [
                _segment(row)
                for row in connection.execute(query.order_by(table.c.sequence).limit(limit))
            ]

    def readable_segments(
        self, stream: str, after_sequence: int = 0, limit: int | None = None
    ) -> list[ReadableSegment]:
        """What readers are given, in order: covers, and segments without one. Raises:
        LedgerUnavailableError.
        """
        with self._transaction() as connection:
            return readable_segments(connection, stream, after_sequence, limit)

    def readable_pages(
        self, stream: str, after_sequence: int = 0, page: int = PAGE_SIZE
    ) -> Iterator[list[ReadableSegment]]:
        """All of it, each page as it is when its turn comes: a cover that reaches back over the
        last one takes the place of what was given of its sequences. Raises: LedgerUnavailableError.
        """
        return pages(lambda after: self.readable_segments(stream, after, page), after_sequence)

    def first_since(self, stream: str, commit_us: int) -> int | None:
        """The first sequence that was committed at or after a time, by its sink's clock. Raises:
        LedgerUnavailableError.
        """
        table = tables.segments.c
        query = select(table.sequence).where(table.stream == stream, table.commit_us >= commit_us)
        with self._transaction() as connection:
            return connection.execute(query.order_by(table.sequence).limit(1)).scalar()

    def retracted_answers(self, message_ids: Collection[str]) -> set[str]:
        """Those of the answers that session has taken back. Raises: LedgerUnavailableError."""
        with self._transaction() as connection:
            return retracted_answers(connection, message_ids)

    def compaction_epoch(self, stream: str) -> int:
        """Objects that compactors of earlier epochs have made are published by now, or never.
        Raises: LedgerUnavailableError.
        """
        table = tables.compactors.c
        with self._transaction() as connection:
            return (
                connection.execute(select(table.epoch).where(table.stream == stream)).scalar() or 0
            )

    def retired(self, object_keys: Collection[str]) -> set[str]:
        """Those that were replaced and are not deleted yet. Raises: LedgerUnavailableError."""
        table, found = tables.retired_objects.c, set[str]()
        with self._transaction() as connection:
            for chunk in chunks(object_keys):
                query = select(table.object_key).where(table.object_key.in_(chunk))
                found.update(connection.execute(query).scalars())
        return found

    def end_offset(self, topic_id: str, partition: int) -> int:
        """One past the last committed offset. Raises: LedgerUnavailableError."""
        table = tables.partitions
        query = select(table.c.end_offset).where(
            table.c.topic_id == topic_id, table.c.partition == partition
        )
        with self._transaction() as connection:
            return connection.execute(query).scalar() or 0

    def dead_letter_offsets(
        self, topic_id: str, partition: int, start: int = 0, end: int = MAX_OFFSET
    ) -> set[int]:
        """From an offset to before another. Raises: LedgerUnavailableError."""
        table = tables.dead_letters.c
        here = (table.topic_id == topic_id) & (table.partition == partition)
        query = select(table.offset).where(here, table.offset >= start, table.offset < end)
        with self._transaction() as connection:
            return set(connection.execute(query).scalars())

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> dict[str, bytes]:
        """Those of the ids that are committed, with their fingerprints. Raises:
        LedgerUnavailableError.
        """
        with self._transaction() as connection:
            return committed_fingerprints(connection, stream, event_ids)

    def erased(self, owners: Collection[Owner]) -> set[Owner]:
        """Those of the owners whose events are gone. Raises: LedgerUnavailableError."""
        with self._transaction() as connection:
            return erased_among(connection, owners)

    def _segment(self, lease: Lease, batch: Batch, sequence: int) -> Segment:
        accounted = batch.rows + len(batch.dead_letters)
        return Segment(
            stream=lease.stream,
            topic_id=lease.topic_id,
            partition=lease.partition,
            sequence=sequence,
            start_offset=lease.end_offset,
            end_offset=batch.end_offset,
            object_key=batch.object_key,
            sha256=batch.sha256,
            rows=batch.rows,
            dead_letters=len(batch.dead_letters),
            tombstones=batch.end_offset - lease.end_offset - accounted,
            commit_us=self._now_us(),
        )

    def _advance_end(self, connection: Connection, lease: Lease, end_offset: int) -> None:
        """Fails unless the end is where the lease says, and the lease is the newest."""
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
            raise FencedError(
                f"epoch {lease.epoch} of topic {lease.topic_id} is not the newest, or its end has moved",
                field="epoch",
            )

    def _transaction(self) -> AbstractContextManager[Connection]:
        return transaction(self._engine)


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One transaction; what the database says is translated.

    Raises:
        FencedError: a row was there already.
        LedgerUnavailableError: anything else that went wrong in the database.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except IntegrityError as error:
        raise FencedError(
            "another writer has committed the same segment or event", reason="EXISTS"
        ) from error
    except SQLAlchemyError as error:
        raise LedgerUnavailableError(
            "the feedback ledger does not answer: nothing was stored"
        ) from error


def committed_fingerprints(
    connection: Connection, stream: str, event_ids: Sequence[str]
) -> dict[str, bytes]:
    """Those of the ids that are committed."""
    table, found = tables.event_ids, {}
    for chunk in chunks(event_ids):
        query = select(table.c.event_id, table.c.fingerprint).where(
            table.c.stream == stream, table.c.event_id.in_(chunk)
        )
        found.update({row.event_id: bytes(row.fingerprint) for row in connection.execute(query)})
    return found


def delete_claims(connection: Connection, stream: str, event_ids: Collection[str]) -> None:
    """Delete the claims of events that are committed. In the order of their ids, as they are taken:
    no deadlock.
    """
    table = tables.claims.c
    for chunk in chunks(event_ids):
        these = (table.stream == stream) & table.event_id.in_(chunk)
        locked = select(table.event_id).where(these).order_by(table.event_id).with_for_update()
        if connection.execute(locked).first():
            connection.execute(delete(tables.claims).where(these))


def lock_stream(connection: Connection, stream: str, step: int = 0) -> tuple[int, int]:
    """Nobody else commits to the stream until the transaction ends. Its last sequence, moved by
    `step`, and the last with plain texts.

    Makes the row where nothing was ever committed: two who are first at once wait for one another
    too.
    """
    row = connection.execute(_LOCK_STREAM, {"stream": stream, "step": step}).one()
    return row.sequence, row.plain_sequence


def _insert_details(connection: Connection, segment: Segment, batch: Batch) -> None:
    """The dead letters and the event ids of a segment, and whether it holds plain texts."""
    letters = [
        {
            "topic_id": segment.topic_id,
            "partition": segment.partition,
            "commit_us": segment.commit_us,
            "offset": letter.offset,
            "error": letter.error,
            "payload_base64": base64.b64encode(letter.payload).decode(),
        }
        for letter in batch.dead_letters
    ]
    ids = [
        {"stream": segment.stream, "event_id": event_id, "fingerprint": fingerprint}
        for event_id, fingerprint in batch.fingerprints.items()
    ]
    for table, rows in ((tables.dead_letters, letters), (tables.event_ids, ids)):
        if rows:
            connection.execute(insert(table), rows)
    if any(not owner.key_id for owner in batch.owners):
        mine = update(tables.streams).where(tables.streams.c.stream == segment.stream)
        connection.execute(mine.values(plain_sequence=segment.sequence))


def _segment(row: Row[Any]) -> Segment:
    return Segment(**row._mapping)
