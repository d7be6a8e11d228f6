"""Leases of compactors, and the transactions reserved for the lease owner.

A lease has an epoch. The time of a lease only tells when another process may try; publishing
requires the newest epoch. All times are the database's, since the clocks of machines differ.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, delete, insert, select, update

from services.feedback.lake.readable_segments import ReadableSegment
from services.feedback.projections import remarks
from services.feedback.store import tables
from services.feedback.store.database import FencedError, database_clock_us, transaction


@dataclass(frozen=True)
class CompactionLease:
    """Right to compact one stream until the next lease.

    Answers retracted by turns up to `turns_sequence` are already removed from the objects.
    """

    stream: str
    epoch: int
    turns_sequence: int = 0


@dataclass(frozen=True)
class Replacement:
    """Compacted segment to be published, with sums over the replaced segments.

    The counts `duplicates`, `erased` and `expired` are rows left out by this replacement.
    """

    replaced: Sequence[ReadableSegment]
    object_key: str
    sha256: str
    rows: int
    duplicates: int
    erased: int
    expired: int
    bytes: int
    oldest_us: int | None
    # Principals and answers of rows left out because of retracted answers.
    retracted_answers: Collection[tuple[str, str]] = ()


class Compactors:
    """Leases and results of compaction in the database.

    All methods are thread-safe, block, and raise LedgerUnavailableError.
    """

    def __init__(
        self, engine: Engine, clock_us: Callable[[Connection], int] = database_clock_us
    ) -> None:
        self._engine, self._clock_us = engine, clock_us

    def now_us(self) -> int:
        """Return the time of the database's clock in microseconds since 1970."""
        with transaction(self._engine) as connection:
            return self._clock_us(connection)

    def acquire(
        self, stream: str, lease_seconds: float, every_seconds: float
    ) -> CompactionLease | None:
        """Acquire the lease of a stream.

        Returns None if another process owns the lease, or the last complete pass is recent.

        Raises:
            FencedError: Another process has acquired the lease at the same time.
        """
        table = tables.compactors
        with transaction(self._engine) as connection:
            # The write locks the row, so that the following read stays valid.
            taken = connection.execute(
                update(table).where(table.c.stream == stream).values(epoch=table.c.epoch)
            )
            if not taken.rowcount:
                connection.execute(insert(table).values(stream=stream, epoch=0, lease_us=0))
            row = connection.execute(select(table).where(table.c.stream == stream)).one()
            now = self._clock_us(connection)
            if row.lease_us > now or now < (row.pass_us or 0) + _microseconds(every_seconds):
                return None
            # Another version, unaware of retracted answers, may have compacted since.
            is_ours = row.taken_back_epoch == row.epoch
            retracted_sequence = int(row.taken_back_sequence) if is_ours else 0
            lease = CompactionLease(stream, row.epoch + 1, retracted_sequence)
            values = {
                "epoch": lease.epoch,
                "lease_us": now + _microseconds(lease_seconds),
                "taken_back_sequence": lease.turns_sequence,
                "taken_back_epoch": lease.epoch,
            }
            connection.execute(update(table).where(table.c.stream == stream).values(values))
        return lease

    def renew(self, lease: CompactionLease, lease_seconds: float) -> None:
        """Extend the lease.

        Raises:
            FencedError: The lease is not the newest.
        """
        with transaction(self._engine) as connection:
            _update_fenced(
                connection,
                lease,
                {"lease_us": self._clock_us(connection) + _microseconds(lease_seconds)},
            )

    def release(self, lease: CompactionLease, turns_sequence: int | None) -> None:
        """Release the lease. After a complete pass the next pass is due one period from now.

        Args:
            turns_sequence: Sequence up to which retracted answers have been removed; None after an
                incomplete pass.

        Raises:
            FencedError: The lease is not the newest.
        """
        with transaction(self._engine) as connection:
            values = {"lease_us": 0}
            if turns_sequence is not None:
                values |= {
                    "pass_us": self._clock_us(connection),
                    "taken_back_sequence": turns_sequence,
                }
            _update_fenced(connection, lease, values)

    def last_pass_us(self, stream: str) -> int | None:
        """Return the end of the last complete pass of any process."""
        table = tables.compactors.c
        with transaction(self._engine) as connection:
            return connection.execute(select(table.pass_us).where(table.stream == stream)).scalar()

    def publish(self, lease: CompactionLease, replacement: Replacement) -> None:
        """Publish a compacted segment in one transaction.

        Raises:
            FencedError: The lease is not the newest, or the replaced segments have changed.
        """
        first, last = replacement.replaced[0].first_sequence, replacement.replaced[-1].sequence
        inside = tables.covers.c
        with transaction(self._engine) as connection:
            streams = tables.streams
            connection.execute(
                update(streams)
                .where(streams.c.stream == lease.stream)
                .values(sequence=streams.c.sequence)
            )
            now = self._clock_us(connection)
            _update_fenced(connection, lease, {"epoch": lease.epoch})
            deleted = connection.execute(
                delete(tables.covers).where(
                    inside.stream == lease.stream,
                    inside.first_sequence >= first,
                    inside.last_sequence <= last,
                )
            )
            if deleted.rowcount != sum(item.is_compacted for item in replacement.replaced):
                raise FencedError(
                    f"compacted segments {first} to {last} of {lease.stream} have changed",
                    field="covers",
                )
            connection.execute(
                # Counts are sums over all original segments, whether the rows were left out now or
                # by an earlier compaction.
                insert(tables.covers).values(
                    stream=lease.stream,
                    first_sequence=first,
                    last_sequence=last,
                    object_key=replacement.object_key,
                    sha256=replacement.sha256,
                    rows=replacement.rows,
                    dead_letters=sum(item.dead_letters for item in replacement.replaced),
                    duplicates=replacement.duplicates
                    + sum(item.duplicates for item in replacement.replaced),
                    erased=replacement.erased + sum(item.erased for item in replacement.replaced),
                    expired=replacement.expired
                    + sum(item.expired for item in replacement.replaced),
                    bytes=replacement.bytes,
                    oldest_us=replacement.oldest_us,
                    commit_us=now,
                )
            )
            remarks.delete_remarks(connection, replacement.retracted_answers)
            retired = [
                {"object_key": item.object_key, "stream": lease.stream, "retire_us": now}
                for item in replacement.replaced
                if item.object_key
            ]
            if retired:
                connection.execute(insert(tables.retired_objects), retired)

    def retired(self, stream: str, before_us: int | None) -> list[str]:
        """Return keys of replaced but still existing objects, oldest first.

        Args:
            before_us: Only objects replaced before this time; None for all.
        """
        table = tables.retired_objects.c
        query = select(table.object_key).where(table.stream == stream)
        if before_us is not None:
            query = query.where(table.retire_us <= before_us)
        with transaction(self._engine) as connection:
            return list(
                connection.execute(query.order_by(table.retire_us, table.object_key)).scalars()
            )

    def forget_retired(self, object_keys: Collection[str]) -> None:
        """Delete the rows of deleted objects."""
        table = tables.retired_objects
        with transaction(self._engine) as connection:
            connection.execute(delete(table).where(table.c.object_key.in_(object_keys)))


def _update_fenced(connection: Connection, lease: CompactionLease, values: dict[str, int]) -> None:
    """Update the row of the stream.

    Raises:
        FencedError: The lease is not the newest.
    """
    table = tables.compactors
    mine = (table.c.stream == lease.stream) & (table.c.epoch == lease.epoch)
    if connection.execute(update(table).where(mine).values(values)).rowcount != 1:
        raise FencedError(
            f"compaction epoch {lease.epoch} of {lease.stream} is not the newest",
            field="epoch",
        )


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)
