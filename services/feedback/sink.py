"""Sink of one partition of one stream: read → object → ledger → trim.

The calls block; see sink_loop.py. Events become visible to readers with the commit to the ledger. A
crash before the commit repeats the work; a crash after the commit repeats only the trim.
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

from sqlalchemy import Connection

from services.feedback import metrics
from services.feedback.dead_letters import (
    UndecodableError,
    UnverifiedError,
    require_acceptable,
    require_sealed,
)
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
from services.feedback.lake.removed_rows import Owner
from services.feedback.principals.sealing import key_ids_of
from services.feedback.spool.log import Log, OffsetGapError, Record, Signature
from services.feedback.store.database import FencedError

log = logging.getLogger(__name__)


class SealableEvent(Protocol):
    """Fields of an event that the sink reads in any stream."""

    @property
    def principals(self) -> tuple[str, ...]: ...
    @property
    def sealed(self) -> bytes: ...


EventT = TypeVar("EventT", bound=SealableEvent)


class CommitPoint(Protocol):
    """Ledger interface of a sink; all methods raise LedgerUnavailableError."""

    def lease(self, stream: str, topic_id: str, partition: int) -> Lease:
        """Acquire the lease of a partition."""

    def commit(
        self, lease: Lease, batch: Batch, in_transaction: InTransaction
    ) -> tuple[Lease, Segment]:
        """Append one segment.

        Raises:
            FencedError: The lease is not the newest.
            LedgerUnavailableError: The outcome may be unknown.
        """

    def end_offset(self, topic_id: str, partition: int) -> int:
        """Return the offset after the last committed offset."""

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the committed ids among the given ids, with fingerprints."""

    def erased(self, owners: Collection[Owner]) -> set[Owner]:
        """Return the owners whose events were erased."""


class SinkStep(StrEnum):
    """Steps of a flush, used by tests to inject crashes."""

    READ = "read"
    ENCODED = "encoded"
    STORED = "stored"
    COMMITTED = "committed"
    TRIMMED = "trimmed"


@dataclass(frozen=True)
class StreamFormat(Generic[EventT]):
    """Conversion of a stream's records to rows, and of rows to an object.

    `decode` raises UndecodableError.
    """

    stream: Stream
    decode: Callable[[Record], EventT]
    row: Callable[[EventT], Row]
    encode: Callable[[Sequence[Row]], bytes]


@dataclass(frozen=True)
class Position:
    """Range of offsets of a batch, used to advance a projection."""

    topic_id: str
    partition: int
    start_offset: int
    end_offset: int


Fold = Callable[[Connection, Position, Sequence[tuple[Record, EventT]]], None]


def no_projection(
    _connection: Connection, _position: Position, _kept: Sequence[tuple[Record, SealableEvent]]
) -> None:
    """Ignore a batch, for streams without a projection."""


@dataclass(frozen=True)
class ClassifiedRecords(Generic[EventT]):
    """Records of a batch by outcome.

    Erased records, and records in none of the lists, become tombstones.
    """

    kept: list[tuple[Record, EventT]]
    dead_letters: list[DeadLetter]
    erased: list[Record] = field(default_factory=list)
    # Offsets of dead letters whose event ids are not trusted, because any client of the topic can
    # write them.
    unverified: set[int] = field(default_factory=set)
    # Records without a valid signature by outcome, for the metric.
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class FlushLimits:
    """Maximum size of one Parquet object."""

    rows: int
    bytes: int


class Sink(Generic[EventT]):
    """Writer of one partition.

    Args:
        accepts_unsigned: Returns True while records without a signature are accepted, as written by
            relays of earlier versions.
        on_step: Called at each step, so that tests can inject crashes.
    """

    def __init__(
        self,
        stream_format: StreamFormat[EventT],
        log: Log,
        store: ObjectStore,
        ledger: CommitPoint,
        limits: FlushLimits,
        fold: Fold[EventT] = no_projection,
        on_step: Callable[[SinkStep], None] = lambda step: None,
        accepts_unsigned: Callable[[], bool] = lambda: False,
    ) -> None:
        self._format, self._log, self._store, self._ledger = stream_format, log, store, ledger
        self._limits, self._fold, self._on_step = limits, fold, on_step
        self._accepts_unsigned = accepts_unsigned
        self._lease: Lease | None = None

    @property
    def position(self) -> int:
        """Next offset to sink, equal to the ledger's end."""
        return self._current_lease().end_offset

    def assign(self) -> None:
        """Acquire the partition and continue at the ledger's end.

        Raises:
            OffsetOutOfRangeError: Log and ledger do not match; continuing would lose or overwrite
                events.
            LedgerUnavailableError: The database is unavailable.
        """
        lease = self._ledger.lease(self._format.stream, self._log.topic_id, self._log.partition)
        # Reading fails if the log no longer has the offset, before any work is done.
        self._log.read(lease.end_offset, max_records=1, max_bytes=1)
        # Set the lease only after the check of the log: `assign` fails as a whole or succeeds.
        self._lease = lease
        self._log.trim(lease.end_offset)

    def check(self) -> None:
        """Check that the ledger has not moved back, as after a failover to an older database.

        Raises:
            FencedError: Call `assign` again.
            LedgerUnavailableError: The database is unavailable.
        """
        lease = self._current_lease()
        end = self._ledger.end_offset(lease.topic_id, lease.partition)
        if end < lease.end_offset:
            raise FencedError(
                f"the ledger of partition {lease.partition} has moved back to {end}", field="offset"
            )

    def flush(self) -> Segment | None:
        """Sink one batch and return its segment, or None for an empty log.

        Raises:
            FencedError: Call `assign` again; also raised after repeated concurrent erasures.
            OffsetGapError: The log has skipped offsets; no segment is committed.
            ObjectStoreError: No data is lost; retry later.
            LedgerUnavailableError: No data is lost; call `assign` before the retry.
        """
        lease = self._current_lease()
        records = self._log.read(lease.end_offset, self._limits.rows, self._limits.bytes)
        self._on_step(SinkStep.READ)
        if not records:
            return None
        # Offsets without a record would otherwise count as tombstones, as if dropped by rule.
        for expected, record in enumerate(records, lease.end_offset):
            if record.offset != expected:
                raise OffsetGapError(
                    f"offset {expected} of partition {lease.partition} of topic {lease.topic_id} "
                    f"is missing: the log continues at {record.offset}",
                    field="offset",
                    limit=str(expected),
                )
        try:
            segment = self._write(lease, records)
        # A second attempt sees the erasure. A further erasure in between is left to the caller.
        except ErasedConcurrentlyError:
            segment = self._write(lease, records)
        self._on_step(SinkStep.COMMITTED)
        # Trimming follows the commit, so a crash in between only repeats the trim.
        self._log.trim(segment.end_offset)
        self._on_step(SinkStep.TRIMMED)
        return segment

    def _current_lease(self) -> Lease:
        if self._lease is None:
            raise RuntimeError("assign must be called before position and flush")
        return self._lease

    def _write(self, lease: Lease, records: Sequence[Record]) -> Segment:
        found = self._classify(records)
        batch = self._store_batch(lease, records, found)
        position = Position(lease.topic_id, lease.partition, lease.end_offset, batch.end_offset)
        # The lease moves with the commit. After a lost response the old lease is fenced, and
        # `assign` reads the true end.
        self._lease, segment = self._ledger.commit(
            lease, batch, lambda c: self._fold(c, position, found.kept)
        )
        for outcome, count in found.outcomes.items():
            metrics.UNVERIFIED.labels(self._format.stream, outcome).inc(count)
        return segment

    def _store_batch(
        self, lease: Lease, records: Sequence[Record], found: ClassifiedRecords[EventT]
    ) -> Batch:
        """Write the object of a batch.

        Until the commit the object is an orphan, invisible to readers.
        """
        end, key, digest = records[-1].offset + 1, "", ""
        if found.kept:
            rows = [
                self._format.row(event)
                | {
                    "topic_id": lease.topic_id,
                    "partition": lease.partition,
                    "offset": record.offset,
                    "event_id": record.entry.event_id,
                    "ingest_time": record.append_us,
                    "schema_version": record.entry.schema_major,
                    "accept_order": record.entry.accept_order or None,
                }
                for record, event in found.kept
            ]
            data = self._format.encode(rows)
            digest = hashlib.sha256(data).hexdigest()
            key = object_key(lease, end, digest)
            self._on_step(SinkStep.ENCODED)
            # The put is idempotent: after a crash the same offsets and content give the same key,
            # and other content gives another key.
            self._store.put(key, data)
            self._on_step(SinkStep.STORED)
        return Batch(
            end_offset=end,
            object_key=key,
            sha256=digest,
            rows=len(found.kept),
            dead_letters=found.dead_letters,
            # The ids of erased events stay known, so that a retry does not restore an erased event.
            fingerprints={
                record.entry.event_id: record.entry.fingerprint
                for record in [*(record for record, _ in found.kept), *found.erased]
            },
            event_ids={
                record.entry.event_id for record in records if record.offset not in found.unverified
            },
            owners={owner for _, event in found.kept for owner in _owners(event)},
        )

    def _classify(self, records: Sequence[Record]) -> ClassifiedRecords[EventT]:
        """Classify records: first decodable event of an id → row; repeated or erased → tombstone.

        Undecodable and unverified records become dead letters.
        """
        event_ids = [record.entry.event_id for record in records]
        # Relay and replicas deliver at least once. The ids in the ledger make the result exactly
        # once.
        seen = set(self._ledger.fingerprints(self._format.stream, event_ids))
        found: ClassifiedRecords[EventT] = ClassifiedRecords([], [])
        accepts_unsigned = self._accepts_unsigned()
        for record in records:
            is_signed = record.signature is Signature.VALID
            try:
                # Before the id is looked at: a forged record must not take an id before its owner.
                if not is_signed:
                    require_acceptable(record.signature, accepts_unsigned)
                if record.entry.event_id in seen:
                    continue
                event = self._format.decode(record)
                if not is_signed:
                    require_sealed(event.sealed)
                    found.outcomes["accepted"] += 1
            except UndecodableError as error:
                found.dead_letters.append(
                    DeadLetter(record.offset, str(error), record.entry.payload)
                )
                if not is_signed:
                    found.unverified.add(record.offset)
                if isinstance(error, UnverifiedError):
                    found.outcomes[error.reason.lower()] += 1
            else:
                found.kept.append((record, event))
                seen.add(record.entry.event_id)
        # An early check without a lock; the commit repeats the check under the lock of the stream.
        owners = {owner for _, event in found.kept for owner in _owners(event)}
        erased = self._ledger.erased(owners)
        found.erased[:] = [record for record, event in found.kept if _owners(event) & erased]
        found.kept[:] = [pair for pair in found.kept if not _owners(pair[1]) & erased]
        return found


def _owners(event: SealableEvent) -> set[Owner]:
    key_ids = key_ids_of(event.sealed) or (b"",) * len(event.principals)
    return {Owner(*owner) for owner in zip(event.principals, key_ids, strict=True)}


def object_key(lease: Lease, end: int, sha256: str) -> str:
    """Return the key of an object: log, offsets (end exclusive) and content hash.

    Different batches or writers never share a key.
    """
    offsets = f"{lease.end_offset:020d}-{end:020d}"
    folder = f"{lease.stream}/v1/topic_id={lease.topic_id}/partition={lease.partition}"
    return f"{folder}/{offsets}-{sha256[:12]}.parquet"
