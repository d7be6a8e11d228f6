"""Ledger of the feedback table: the contiguous list of committed segments in a database.

Readers see only committed segments. A writer holds a lease with an epoch. A commit moves the
partition's end from exactly the lease's end, in one transaction. Transactions of a stream are
serial, and their sequence is the order for readers.
"""

import base64
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import Connection, Engine, delete, insert, select, text, update

from services.feedback.lake.readable_segments import (
    PAGE_SIZE,
    ReadableSegment,
    pages,
    readable_segments,
)
from services.feedback.lake.removed_rows import Owner, erased_among, retracted_answers
from services.feedback.store import tables
from services.feedback.store.database import FencedError, chunks, transaction

MAX_OFFSET = 2**63 - 1
_LOCK_STREAM = text("""
    INSERT INTO streams (stream, sequence, plain_sequence) VALUES (:stream, :step, 0)
    ON CONFLICT (stream) DO UPDATE SET sequence = streams.sequence + :step
    RETURNING sequence, plain_sequence
""")


class ErasedConcurrentlyError(FencedError):
    """Owner of a row was erased after the batch was composed; the batch must be composed again."""


@dataclass(frozen=True)
class Lease:
    """Right to write one partition until the next lease.

    `end_offset` is exclusive and the start of the next segment.
    """

    stream: str
    topic_id: str
    partition: int
    epoch: int
    end_offset: int


@dataclass(frozen=True)
class Segment:
    """Committed range of offsets, `start_offset` to before `end_offset`."""

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
    """Undecodable record with its error."""

    offset: int
    error: str
    payload: bytes


@dataclass(frozen=True)
class Batch:
    """Outcome of the offsets from the lease's end to before `end_offset`.

    The batch lists rows and dead letters; the remaining offsets are tombstones. `fingerprints` are
    stored, and claims of `event_ids` are deleted.
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
    """Ledger over a SQL database; thread-safe.

    Every call blocks and raises LedgerUnavailableError if the database does not answer.
    """

    def __init__(
        self, engine: Engine, now_us: Callable[[], int] = lambda: time.time_ns() // 1_000
    ) -> None:
        self._engine, self._now_us = engine, now_us

    def lease(self, stream: str, topic_id: str, partition: int) -> Lease:
        """Acquire a partition and fence the previous owner."""
        table = tables.partitions
        mine = (table.c.topic_id == topic_id) & (table.c.partition == partition)
        with transaction(self._engine) as connection:
            # The update comes first and locks the row, so that the following read cannot be
            # outdated. Raising the epoch fences the previous owner at its next commit.
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
        """Append one segment.

        Args:
            lease: Newest lease of the partition.
            batch: Content of the segment.
            in_transaction: Writes projections in the same transaction.

        Raises:
            FencedError: The lease is not the newest, or the end has moved.
            ErasedConcurrentlyError: An owner was erased. Erasures lock the stream's row as well, so
                none can follow before the end of the transaction.
            LedgerUnavailableError: The outcome is unknown until a new lease is acquired.
        """
        with transaction(self._engine) as connection:
            # Lock the stream's row first: sequences are then assigned in the order of commits, and
            # no reader can see a later sequence before an earlier one.
            sequence, _ = lock_stream(connection, lease.stream, step=1)
            segment = self._segment(lease, batch, sequence)
            # Check under the lock. The check of the sink happened before, and an erasure may have
            # come in between.
            if erased_among(connection, batch.owners):
                raise ErasedConcurrentlyError("an owner of these rows was erased concurrently")
            # Fence before any insert, so that an outdated writer changes nothing.
            self._advance_end(connection, lease, batch.end_offset)
            # The unique key on the start offset is the last protection against two segments for one
            # range.
            connection.execute(insert(tables.segments).values(vars(segment)))
            _insert_details(connection, segment, batch)
            # The event ids protect against duplicates from here on.
            delete_claims(connection, lease.stream, batch.event_ids)
            in_transaction(connection)
        return replace(lease, end_offset=segment.end_offset), segment

    @contextmanager
    def commits_blocked(self, stream: str) -> Iterator[Connection]:
        """Open a transaction that blocks commits to the stream."""
        with transaction(self._engine) as connection:
            lock_stream(connection, stream)
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a transaction without locks."""
        with transaction(self._engine) as connection:
            yield connection

    def segments(
        self, stream: str, after_sequence: int = 0, limit: int | None = None
    ) -> list[Segment]:
        """Return committed segments in order, including segments with a compacted form."""
        table = tables.segments
        query = select(table).where(table.c.stream == stream, table.c.sequence > after_sequence)
        with transaction(self._engine) as connection:
            return [
                Segment(**row._mapping)
                for row in connection.execute(query.order_by(table.c.sequence).limit(limit))
            ]

    def readable_segments(
        self, stream: str, after_sequence: int = 0, limit: int | None = None
    ) -> list[ReadableSegment]:
        """Return the readable segments in order."""
        with transaction(self._engine) as connection:
            return readable_segments(connection, stream, after_sequence, limit)

    def readable_pages(
        self, stream: str, after_sequence: int = 0, page: int = PAGE_SIZE
    ) -> Iterator[list[ReadableSegment]]:
        """Yield all readable segments by page, each page in its current state.

        A compacted segment that starts before the previous page's end replaces segments of that
        page.
        """
        return pages(lambda after: self.readable_segments(stream, after, page), after_sequence)

    def first_since(self, stream: str, commit_us: int) -> int | None:
        """Return the first sequence committed at or after a time by the sink's clock."""
        table = tables.segments.c
        query = select(table.sequence).where(table.stream == stream, table.commit_us >= commit_us)
        with transaction(self._engine) as connection:
            return connection.execute(query.order_by(table.sequence).limit(1)).scalar()

    def retracted_answers(self, message_ids: Collection[str]) -> set[str]:
        """Return the retracted answers among the given answers."""
        with transaction(self._engine) as connection:
            return retracted_answers(connection, message_ids)

    def compaction_epoch(self, stream: str) -> int:
        """Return the newest epoch of compaction.

        Objects of earlier epochs are either published by now or will never be.
        """
        table = tables.compactors.c
        with transaction(self._engine) as connection:
            return (
                connection.execute(select(table.epoch).where(table.stream == stream)).scalar() or 0
            )

    def retired(self, object_keys: Collection[str]) -> set[str]:
        """Return the replaced but not yet deleted objects among the given keys."""
        table, found = tables.retired_objects.c, set[str]()
        with transaction(self._engine) as connection:
            for chunk in chunks(object_keys):
                query = select(table.object_key).where(table.object_key.in_(chunk))
                found.update(connection.execute(query).scalars())
        return found

    def signed_since_us(self, stream: str) -> int:
        """Return the time of the first signed records of a stream; 0: from the start."""
        table = tables.streams.c
        query = select(table.signed_since_us).where(table.stream == stream)
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar() or 0

    def end_offset(self, topic_id: str, partition: int) -> int:
        """Return the offset after the last committed offset."""
        table = tables.partitions
        query = select(table.c.end_offset).where(
            table.c.topic_id == topic_id, table.c.partition == partition
        )
        with transaction(self._engine) as connection:
            return connection.execute(query).scalar() or 0

    def dead_letter_offsets(
        self, topic_id: str, partition: int, start: int = 0, end: int = MAX_OFFSET
    ) -> set[int]:
        """Return the offsets of dead letters in a half-open range."""
        table = tables.dead_letters.c
        here = (table.topic_id == topic_id) & (table.partition == partition)
        query = select(table.offset).where(here, table.offset >= start, table.offset < end)
        with transaction(self._engine) as connection:
            return set(connection.execute(query).scalars())

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> dict[str, bytes]:
        """Return the committed ids among the given ids, with fingerprints."""
        with transaction(self._engine) as connection:
            return committed_fingerprints(connection, stream, event_ids)

    def erased(self, owners: Collection[Owner]) -> set[Owner]:
        """Return the owners whose events were erased."""
        with transaction(self._engine) as connection:
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
        """Move the end of the partition.

        Raises:
            FencedError: The end has moved, or the lease is not the newest.
        """
        table = tables.partitions
        # One conditional UPDATE compares and sets, so two writers cannot both succeed.
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
                f"epoch {lease.epoch} of topic {lease.topic_id} is not the newest, "
                "or the end of the partition has moved",
                field="epoch",
            )


def committed_fingerprints(
    connection: Connection, stream: str, event_ids: Sequence[str]
) -> dict[str, bytes]:
    """Return the committed ids among the given ids, with fingerprints."""
    table, found = tables.event_ids, {}
    for chunk in chunks(event_ids):
        query = select(table.c.event_id, table.c.fingerprint).where(
            table.c.stream == stream, table.c.event_id.in_(chunk)
        )
        found.update({row.event_id: bytes(row.fingerprint) for row in connection.execute(query)})
    return found


def delete_claims(connection: Connection, stream: str, event_ids: Collection[str]) -> None:
    """Delete the claims of committed events.

    Rows are locked in the order of their ids, as in all other transactions, to avoid deadlocks.
    """
    table = tables.claims.c
    for chunk in chunks(event_ids):
        these = (table.stream == stream) & table.event_id.in_(chunk)
        locked = select(table.event_id).where(these).order_by(table.event_id).with_for_update()
        # The common case on SQLite, without claims, needs no DELETE.
        if connection.execute(locked).first():
            connection.execute(delete(tables.claims).where(these))


def lock_stream(connection: Connection, stream: str, step: int = 0) -> tuple[int, int]:
    """Lock a stream against other commits and return its last and last plain sequence.

    The last sequence is advanced by `step`. A missing row is created, so that the first two writers
    of a stream are serialised as well.
    """
    row = connection.execute(_LOCK_STREAM, {"stream": stream, "step": step}).one()
    return row.sequence, row.plain_sequence


def _insert_details(connection: Connection, segment: Segment, batch: Batch) -> None:
    """Insert dead letters and event ids of a segment, and record plain texts."""
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
    # Texts without a key were accepted before sealing existed; erasures must rewrite segments up to
    # this sequence.
    if any(not owner.key_id for owner in batch.owners):
        mine = update(tables.streams).where(tables.streams.c.stream == segment.stream)
        connection.execute(mine.values(plain_sequence=segment.sequence))
