"""From the log to Parquet: read → object → ledger → trim, for one partition of one stream.
Blocking; see drain.py.

The ledger's commit is the moment when events exist for readers; a crash before it repeats the work,
after it only the trim.
"""

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from sqlalchemy import Connection

from services.chassis.errors import DetailedError
from services.feedback.events import Stream
from services.feedback.lake.ledger import (
    Batch,
    DeadLetter,
    ErasedConcurrentlyError,
    InTransaction,
    Lease,
    Segment,
)
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.parquet import Row
from services.feedback.principals.erased_rows import Owner
from services.feedback.principals.sealing import key_id_of
from services.feedback.spool.frames import Record
from services.feedback.spool.log import Log


class SealableEvent(Protocol):
    """What the sink looks at in an event of any stream."""

    @property
    def principal(self) -> str: ...
    @property
    def sealed(self) -> bytes: ...


EventT = TypeVar("EventT", bound=SealableEvent)


class UndecodableError(DetailedError):
    """A record that this version cannot read; the text says why in fixed words."""

    reason = "MALFORMED"


class CommitPoint(Protocol):
    """The ledger, as a sink uses it."""

    def lease(self, stream: str, topic_id: str, partition: int) -> Lease:
        """Take the partition over. Raises: LedgerUnavailableError."""

    def commit(
        self, lease: Lease, batch: Batch, in_transaction: InTransaction
    ) -> tuple[Lease, Segment]:
        """Append one segment. Raises: FencedError, LedgerUnavailableError."""

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Those of the ids that are committed. Raises: LedgerUnavailableError."""

    def erased(self, owners: Collection[Owner]) -> set[Owner]:
        """Those of the owners whose events are gone. Raises: LedgerUnavailableError."""


class SinkStep(StrEnum):
    """Where a crash can fall."""

    READ = "read"
    ENCODED = "encoded"
    STORED = "stored"
    COMMITTED = "committed"
    TRIMMED = "trimmed"


@dataclass(frozen=True)
class StreamFormat(Generic[EventT]):
    """How the records of a stream become rows, and rows an object. `decode` raises
    UndecodableError.
    """

    stream: Stream
    decode: Callable[[Record], EventT]
    row: Callable[[EventT], Row]
    encode: Callable[[Sequence[Row]], bytes]


@dataclass(frozen=True)
class Position:
    """Where a projection stands after a batch that began at `start_offset`."""

    topic_id: str
    partition: int
    start_offset: int
    end_offset: int


Fold = Callable[[Connection, Position, Sequence[tuple[Record, EventT]]], None]


def no_projection(
    _connection: Connection, _position: Position, _kept: Sequence[tuple[Record, SealableEvent]]
) -> None:
    """For a stream whose events are only written."""


@dataclass(frozen=True)
class ClassifiedRecords(Generic[EventT]):
    """A batch of records by what becomes of each. Of those in no list, and of those that were
    erased, tombstones.
    """

    kept: list[tuple[Record, EventT]]
    dead_letters: list[DeadLetter]
    erased: list[Record] = field(default_factory=list)


@dataclass(frozen=True)
class FlushLimits:
    """The most that one Parquet object holds."""

    rows: int
    bytes: int


class Sink(Generic[EventT]):
    """One writer of one partition. `at` is called as each step is reached: tests crash there."""

    def __init__(
        self,
        stream_format: StreamFormat[EventT],
        log: Log,
        store: ObjectStore,
        ledger: CommitPoint,
        limits: FlushLimits,
        fold: Fold[EventT] = no_projection,
        on_step: Callable[[SinkStep], None] = lambda step: None,
    ) -> None:
        self._format, self._log, self._store, self._ledger = stream_format, log, store, ledger
        self._limits, self._fold, self._on_step = limits, fold, on_step
        self._lease: Lease | None = None

    @property
    def position(self) -> int:
        """The next offset to sink: the ledger's end."""
        return self._current_lease().end_offset

    def assign(self) -> None:
        """Take the partition: the position is the ledger's end, whatever anybody else remembers.

        Raises:
            OffsetOutOfRangeError: log and ledger do not fit together: events would be lost or
                overwritten.
            LedgerUnavailableError: the database is away.
        """
        lease = self._ledger.lease(self._format.stream, self._log.topic_id, self._log.partition)
        self._log.read(lease.end_offset, max_records=1, max_bytes=1)
        self._lease = lease
        self._log.trim(lease.end_offset)

    def flush(self) -> Segment | None:
        """Sink one batch; None if nothing waits.

        Raises:
            FencedError: assign again; also where one erasure after another comes between.
            ObjectStoreError, LedgerUnavailableError: nothing is lost; later again, and after the
            latter assign first.
        """
        lease = self._current_lease()
        records = self._log.read(lease.end_offset, self._limits.rows, self._limits.bytes)
        self._on_step(SinkStep.READ)
        if not records:
            return None
        try:
            segment = self._write(lease, records)
        except ErasedConcurrentlyError:
            segment = self._write(lease, records)
        self._on_step(SinkStep.COMMITTED)
        self._log.trim(segment.end_offset)
        self._on_step(SinkStep.TRIMMED)
        return segment

    def _current_lease(self) -> Lease:
        if self._lease is None:
            raise RuntimeError("assign comes first")
        return self._lease

    def _write(self, lease: Lease, records: Sequence[Record]) -> Segment:
        batch, kept = self._store_batch(lease, records)
        position = Position(lease.topic_id, lease.partition, lease.end_offset, batch.end_offset)
        self._lease, segment = self._ledger.commit(
            lease, batch, lambda c: self._fold(c, position, kept)
        )
        return segment

    def _store_batch(
        self, lease: Lease, records: Sequence[Record]
    ) -> tuple[Batch, list[tuple[Record, EventT]]]:
        """Write the data object; until the ledger names it, it is an orphan that no reader sees."""
        found, end = self._classify(records), records[-1].offset + 1
        key, digest = "", ""
        if found.kept:
            data = self._format.encode([self._row(lease, *pair) for pair in found.kept])
            digest = hashlib.sha256(data).hexdigest()
            key = object_key(lease, end, digest)
            self._on_step(SinkStep.ENCODED)
            self._store.put(key, data)
            self._on_step(SinkStep.STORED)
        batch = Batch(
            end_offset=end,
            object_key=key,
            sha256=digest,
            rows=len(found.kept),
            dead_letters=found.dead_letters,
            # An event that was erased on its way stays known: whoever sends it again does not bring
            # it back.
            fingerprints={
                record.entry.event_id: record.entry.fingerprint
                for record in [*(record for record, _ in found.kept), *found.erased]
            },
            event_ids={record.entry.event_id for record in records},
            owners={_owner(event) for _, event in found.kept},
        )
        return batch, found.kept

    def _classify(self, records: Sequence[Record]) -> ClassifiedRecords[EventT]:
        """The first of an event id becomes a row, a later or erased one a tombstone, what cannot be
        read a dead letter.
        """
        event_ids = [record.entry.event_id for record in records]
        seen = set(self._ledger.fingerprints(self._format.stream, event_ids))
        found: ClassifiedRecords[EventT] = ClassifiedRecords([], [])
        for record in records:
            if record.entry.event_id in seen:
                continue
            try:
                found.kept.append((record, self._format.decode(record)))
            except UndecodableError as error:
                found.dead_letters.append(
                    DeadLetter(record.offset, str(error), record.entry.payload)
                )
            else:
                seen.add(record.entry.event_id)
        erased = self._ledger.erased({_owner(event) for _, event in found.kept})
        found.erased[:] = [record for record, event in found.kept if _owner(event) in erased]
        found.kept[:] = [pair for pair in found.kept if _owner(pair[1]) not in erased]
        return found

    def _row(self, lease: Lease, record: Record, event: EventT) -> Row:
        return self._format.row(event) | {
            "topic_id": lease.topic_id,
            "partition": lease.partition,
            "offset": record.offset,
            "event_id": record.entry.event_id,
            "ingest_time": record.append_us,
            "schema_version": record.entry.schema_major,
            "accept_order": record.entry.accept_order or None,
        }


def _owner(event: SealableEvent) -> Owner:
    return Owner(event.principal, key_id_of(event.sealed))


def object_key(lease: Lease, end: int, sha256: str) -> str:
    """Names log, offsets (the end is exclusive) and content: another batch or another writer never
    has the same key.
    """
    offsets = f"{lease.end_offset:020d}-{end:020d}"
    folder = f"{lease.stream}/v1/topic_id={lease.topic_id}/partition={lease.partition}"
    return f"{folder}/{offsets}-{sha256[:12]}.parquet"
