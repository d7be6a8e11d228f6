"""In-memory spool, claims, broker, ledger and store with faults by seed.

They implement the interfaces of acceptance, relay and sink, whose real code runs. Their durability
rules are those verified by the tests of the real implementations.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from services.chassis.errors import UnavailableError
from services.feedback.kafka.relay import PublishError
from services.feedback.lake.ledger import Batch, InTransaction, Lease, Segment
from services.feedback.lake.object_store import ObjectMissingError, ObjectStoreError, StoredObject
from services.feedback.lake.removed_rows import Owner
from services.feedback.spool.accept import Claim
from services.feedback.spool.log import Entry, OffsetOutOfRangeError, Record, TopicReplacedError
from services.feedback.store.database import FencedError, LedgerUnavailableError
from tests.services.feedback.faults import CrashError, Faults

RECORDS_PER_FILE = 4


class MemorySpool:
    """Spool whose `records` are durable.

    Consumed files are deleted whole, the last file only when fully consumed.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.records: list[Record] = []
        self.start_offset = 0

    @property
    def end_offset(self) -> int:
        return self.start_offset + len(self.records)

    def check_space(self, new_bytes: int) -> None:
        if self._faults.strike("spool full", 0.01):
            raise UnavailableError("nothing was stored")

    def append(self, entries: Sequence[Entry]) -> list[Record]:
        if self._faults.strike("crash before sync", 0.02):
            # Any part of an unacknowledged group may have reached the disk.
            self._keep(entries[: self._faults.random.randint(0, len(entries))])
            raise CrashError
        if self._faults.strike("disk full", 0.01):
            raise UnavailableError("nothing was stored", reason="FEEDBACK_SPOOL_DISK")
        return self._keep(entries)

    def _keep(self, entries: Sequence[Entry]) -> list[Record]:
        end = self.end_offset
        records = [Record(end + number, 1, entry) for number, entry in enumerate(entries)]
        self.records += records
        return records

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        if not self.start_offset <= start <= self.end_offset:
            raise OffsetOutOfRangeError(f"{start}")
        at = start - self.start_offset
        return self.records[at : at + max_records]

    def trim(self, before: int) -> None:
        base = before if before == self.end_offset else before - before % RECORDS_PER_FILE
        if base > self.start_offset:
            self.records = self.records[base - self.start_offset :]
            self.start_offset = base


class MemoryClaims:
    """Table of claims, shared by all replicas."""

    def __init__(self, faults: Faults, ledger: "MemoryLedger") -> None:
        self._faults, self._ledger = faults, ledger
        self._drawn = 0

    def claim(self, entries: Sequence[Entry]) -> Mapping[str, Claim]:
        if self._faults.strike("claims away", 0.02):
            raise UnavailableError("nothing was stored")
        table, found = self._ledger.claims, {}
        for entry in entries:
            self._drawn += 1
            fingerprint, order, holders = table.get(
                entry.event_id, (entry.fingerprint, self._drawn, 0)
            )
            table[entry.event_id] = (fingerprint, order, holders + 1)
            found[entry.event_id] = Claim(fingerprint, order)
            if (committed := self._ledger.ids.get(entry.event_id)) is not None:
                del table[entry.event_id]
                found[entry.event_id] = Claim(committed, 0, True)
        if self._faults.strike("crash after claim", 0.02):
            raise CrashError
        if self._faults.strike("claim ack lost", 0.02):
            raise UnavailableError("nothing was stored")
        return found

    def release(self, event_ids: Collection[str]) -> None:
        table = self._ledger.claims
        for event_id in event_ids:
            if event_id in table and table[event_id][2] == 1:
                self._faults.counts["claim released"] += 1
                del table[event_id]


class MemoryTopic:
    """Topic with several partitions; a recreated topic is empty and has another id."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._made = 0
        self.logs: dict[str, list[list[Record]]] = {}
        self.make()

    def make(self) -> None:
        self._made += 1
        self.topic_id = f"topic-{self._made}"
        self.logs[self.topic_id] = [[] for _ in range(self.partitions)]

    def append(self, entry: Entry) -> None:
        log = self.logs[self.topic_id][int(entry.key) % self.partitions]
        log.append(Record(len(log), 1, entry))

    def fetch(self, partition: int, start: int, most: int) -> list[Record]:
        """Return records by topic name alone, like the real client."""
        log = self.logs[self.topic_id][partition]
        if start > len(log):
            raise OffsetOutOfRangeError(f"{start}")
        return log[start : start + most]

    def require(self, topic_id: str) -> None:
        if topic_id != self.topic_id:
            raise TopicReplacedError(topic_id)


class MemoryPublisher:
    """Publisher with faults: outages, partial batches, lost acknowledgements, crashes."""

    def __init__(self, faults: Faults, topic: MemoryTopic) -> None:
        self._faults, self._topic = faults, topic

    def publish(self, records: Sequence[Record]) -> None:
        strike = self._faults.strike
        if strike("broker away", 0.05):
            raise PublishError("away")
        taken: Sequence[Record] = records
        partly = strike("batch partly taken", 0.08)
        if partly:
            # Batches of partitions fail independently, so any subset may be stored.
            taken = [record for record in records if self._faults.random.random() < 0.5]
        for record in taken:
            self._topic.append(record.entry)
        if strike("crash after publish", 0.03):
            raise CrashError
        if partly or strike("producer ack lost", 0.08):
            raise PublishError("lost")

    def close(self) -> None:
        pass


class MemoryLedger:
    """Ledger rules without a database: sequences, leases with epochs, unique event ids, claims."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.places: dict[tuple[str, int], list[int]] = {}
        self.committed: list[Segment] = []
        self.ids: dict[str, bytes] = {}
        self.claims: OrderedDict[str, tuple[bytes, int, int]] = OrderedDict()

    def lease(self, stream: str, topic_id: str, partition: int) -> Lease:
        place = self.places.setdefault((topic_id, partition), [0, 0])
        place[0] += 1
        return Lease(stream, topic_id, partition, place[0], place[1])

    def commit(
        self, lease: Lease, batch: Batch, in_transaction: InTransaction
    ) -> tuple[Lease, Segment]:
        if self._faults.strike("commit failed", 0.03):
            raise LedgerUnavailableError("away")
        self.advance(lease, batch)
        accounted = batch.rows + len(batch.dead_letters)
        segment = Segment(
            stream=lease.stream,
            topic_id=lease.topic_id,
            partition=lease.partition,
            sequence=len(self.committed) + 1,
            start_offset=lease.end_offset,
            end_offset=batch.end_offset,
            object_key=batch.object_key,
            sha256=batch.sha256,
            rows=batch.rows,
            dead_letters=len(batch.dead_letters),
            tombstones=batch.end_offset - lease.end_offset - accounted,
            commit_us=1,
        )
        self.committed.append(segment)
        self.ids.update(batch.fingerprints)
        for event_id in batch.event_ids:
            self.claims.pop(event_id, None)
        connection: Any = self
        in_transaction(connection)
        if self._faults.strike("commit ack lost", 0.05):
            raise LedgerUnavailableError("lost")
        return replace(lease, end_offset=batch.end_offset), segment

    def advance(self, lease: Lease, batch: Batch) -> None:
        place = self.places[lease.topic_id, lease.partition]
        if place != [lease.epoch, lease.end_offset] or not self.ids.keys().isdisjoint(
            batch.fingerprints
        ):
            raise FencedError("fenced")
        place[1] = batch.end_offset

    def end_offset(self, topic_id: str, partition: int) -> int:
        return self.places.get((topic_id, partition), [0, 0])[1]

    def segments(self, stream: str) -> list[Segment]:
        return self.committed

    def erased(self, owners: Collection[Owner]) -> set[Owner]:
        return set()

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> dict[str, bytes]:
        ids = self.ids
        return {event_id: ids[event_id] for event_id in event_ids if event_id in ids}


class MemoryStore:
    """Object store that loses acknowledgements."""

    def __init__(self, faults: Faults) -> None:
        self.objects: dict[str, bytes] = {}
        self._faults = faults

    def put(self, key: str, data: bytes) -> None:
        if self._faults.strike("put failed", 0.05):
            raise ObjectStoreError("refused")
        self.objects[key] = data
        if self._faults.strike("put ack lost", 0.05):
            raise ObjectStoreError("reset")

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectMissingError(key)
        return self.objects[key]

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        return (StoredObject(key, 1) for key in sorted(self.objects) if key.startswith(prefix))
