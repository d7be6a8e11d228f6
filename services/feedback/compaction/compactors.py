"""Who may compact a stream, and what only that one may write: covers, in one transaction each, and
what they retire.

A lease has an epoch. Its time only says when somebody else may try; whoever has not the newest
epoch publishes nothing. All times are the database's own, since the clocks of machines differ.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, insert, select, text, update

from services.feedback import tables
from services.feedback.lake.compacted_segments import ReadableSegment
from services.feedback.lake.ledger import FencedError, transaction
from services.feedback.projections import remarks

_POSTGRES_CLOCK = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")


@dataclass(frozen=True)
class CompactionLease:
    """The right to compact one stream, until the next lease. What turns up to a sequence took back
    is out of its objects.
    """

    stream: str
    epoch: int
    turns_sequence: int = 0


@dataclass(frozen=True)
class Replacement:
    """A cover that is to be published: its object, the sums over what it takes the place of, and
    what was left out of that.
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
    # Principals and answers of rows that were left out because the answer was taken back.
    retracted_answers: Collection[tuple[str, str]] = ()


def database_clock_us(connection: Connection) -> int:
    """Microseconds since 1970. SQLite's database has no other clock than this machine's."""
    if connection.dialect.name == "sqlite":
        return time.time_ns() // 1_000
    return int(connection.execute(_POSTGRES_CLOCK).scalar_one())


class Compactors:
    """Safe to call from several threads; every call blocks, and raises LedgerUnavailableError."""

    def __init__(
        self, engine: Engine, clock_us: Callable[[Connection], int] = database_clock_us
    ) -> None:
        self._engine, self._clock_us = engine, clock_us

    def now_us(self) -> int:
        """By the database's clock."""
        with transaction(self._engine) as connection:
            return self._clock_us(connection)

    def acquire(
        self, stream: str, lease_seconds: float, every_seconds: float
    ) -> CompactionLease | None:
        """The lease; None: another one has it, or the last whole pass is not so long ago. Raises:
        FencedError.
        """
        table = tables.compactors
        with transaction(self._engine) as connection:
            # A write first: it takes the row, so that what is read next stays true.
            taken = connection.execute(
                update(table).where(table.c.stream == stream).values(epoch=table.c.epoch)
            )
            if not taken.rowcount:
                connection.execute(insert(table).values(stream=stream, epoch=0, lease_us=0))
            row = connection.execute(select(table).where(table.c.stream == stream)).one()
            now = self._clock_us(connection)
            if row.lease_us > now or now < (row.pass_us or 0) + _microseconds(every_seconds):
                return None
            lease = CompactionLease(stream, row.epoch + 1, _retracted_sequence(row))
            values = {
                "epoch": lease.epoch,
                "lease_us": now + _microseconds(lease_seconds),
                "taken_back_sequence": lease.turns_sequence,
                "taken_back_epoch": lease.epoch,
            }
            connection.execute(update(table).where(table.c.stream == stream).values(values))
        return lease

    def renew(self, lease: CompactionLease, lease_seconds: float) -> None:
        """So much longer. Raises: FencedError."""
        with transaction(self._engine) as connection:
            _update_fenced(
                connection,
                lease,
                {"lease_us": self._clock_us(connection) + _microseconds(lease_seconds)},
            )

    def release(self, lease: CompactionLease, turns_sequence: int | None) -> None:
        """Give the lease back. After a whole pass, which left nothing undone, the next one is due a
        period from now.

        Args:
            turns_sequence: up to where what turns take back is out of the objects; None: the pass
                was not whole.

        Raises:
            FencedError
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
        """When the last whole pass ended, whoever made it."""
        table = tables.compactors.c
        with transaction(self._engine) as connection:
            return connection.execute(select(table.pass_us).where(table.stream == stream)).scalar()

    def publish(self, lease: CompactionLease, replacement: Replacement) -> None:
        """Let readers have the cover, all at once. Raises: FencedError."""
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
                    f"the covers of {lease.stream} {first} to {last} are not those that were read",
                    field="covers",
                )
            connection.execute(insert(tables.covers).values(_cover(lease.stream, replacement, now)))
            remarks.delete_remarks(connection, replacement.retracted_answers)
            retired = [
                {"object_key": item.object_key, "stream": lease.stream, "retire_us": now}
                for item in replacement.replaced
                if item.object_key
            ]
            if retired:
                connection.execute(insert(tables.retired_objects), retired)

    def retired(self, stream: str, before_us: int | None) -> list[str]:
        """Keys of objects that were replaced, before a time or at any, and that may still be there."""
        table = tables.retired_objects.c
        query = select(table.object_key).where(table.stream == stream)
        if before_us is not None:
            query = query.where(table.retire_us <= before_us)
        with transaction(self._engine) as connection:
            return list(
                connection.execute(query.order_by(table.retire_us, table.object_key)).scalars()
            )

    def forget_retired(self, object_keys: Collection[str]) -> None:
        """They are deleted."""
        table = tables.retired_objects
        with transaction(self._engine) as connection:
            connection.execute(delete(table).where(table.c.object_key.in_(object_keys)))


def _retracted_sequence(row: Row[Any]) -> int:
    """0 where another version has compacted since: what it wrote may hold rows that it did not know
    to leave out.
    """
    return int(row.taken_back_sequence) if row.taken_back_epoch == row.epoch else 0


def _update_fenced(connection: Connection, lease: CompactionLease, values: dict[str, int]) -> None:
    """Takes the row; fails unless the lease is the newest."""
    table = tables.compactors
    mine = (table.c.stream == lease.stream) & (table.c.epoch == lease.epoch)
    if connection.execute(update(table).where(mine).values(values)).rowcount != 1:
        raise FencedError(
            f"epoch {lease.epoch} of the compaction of {lease.stream} is not the newest",
            field="epoch",
        )


def _microseconds(seconds: float) -> int:
    return int(seconds * 1_000_000)


def _cover(stream: str, replacement: Replacement, now_us: int) -> dict[str, object]:
    """Sums go over all segments below, whether an earlier cover had left the rows out or this one
    does.
    """
    return {
        "stream": stream,
        "first_sequence": replacement.replaced[0].first_sequence,
        "last_sequence": replacement.replaced[-1].sequence,
        "object_key": replacement.object_key,
        "sha256": replacement.sha256,
        "rows": replacement.rows,
        "dead_letters": sum(item.dead_letters for item in replacement.replaced),
        "duplicates": replacement.duplicates
        + sum(item.duplicates for item in replacement.replaced),
        "erased": replacement.erased + sum(item.erased for item in replacement.replaced),
        "expired": replacement.expired + sum(item.expired for item in replacement.replaced),
        "bytes": replacement.bytes,
        "oldest_us": replacement.oldest_us,
        "commit_us": now_us,
    }
