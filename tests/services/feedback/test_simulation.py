"""Seeded crashes, zombies and lost acknowledgements at every step of a single replica.

The history checker finds no violation in the product, and finds every planted mutant.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Connection, update

from services.feedback.lake.ledger import Lease, Segment
from services.feedback.sink import Sink, SinkStep
from services.feedback.spool.log import Record
from services.feedback.store import tables
from tests.services.feedback.memory import MemoryStore
from tests.services.feedback.objects import decode
from tests.services.feedback.simulation import check_sound, is_caught
from tests.services.feedback.world import Disk, ForgetfulLedger, World

# Seven seeds are needed for the last mutant.
SEEDS, MUTANT_SEEDS, LONG_SEEDS = 7, 25, 200
FAULTS = {
    "put failed",
    "put ack lost",
    "commit ack lost",
    "crash in write",
    "crash before sync",
    "crash before reply",
    "disk full",
    "record twice in the log",
    "undecodable record",
    "FencedError",
    *(f"crash at {step}" for step in SinkStep),
    *(f"zombie at {step}" for step in SinkStep if step is not SinkStep.TRIMMED),
}


@pytest.mark.parametrize("seeds", [SEEDS, pytest.param(LONG_SEEDS, marks=pytest.mark.long)])
def test_no_acknowledged_event_is_lost_or_duplicated(seeds: int, fast_directory: Path) -> None:
    check_sound(World, seeds, FAULTS, fast_directory)


class StartOffsetNames(MemoryStore):
    """Mutant: objects named only by their first offset, overwritten, like a well-known sink."""

    def put(self, key: str, data: bytes) -> None:
        super().put(self._short(key), data)

    def get(self, key: str) -> bytes:
        return super().get(self._short(key))

    @staticmethod
    def _short(key: str) -> str:
        return key.rsplit("-", 2)[0]


class StartOffsetWorld(World):
    store_kind = StartOffsetNames


class LooseLedger(ForgetfulLedger):
    """Mutant: the end moves without a check of position and lease."""

    def _advance_end(self, connection: Connection, lease: Lease, end_offset: int) -> None:
        table = tables.partitions
        connection.execute(
            update(table).where(table.c.topic_id == lease.topic_id).values(end_offset=end_offset)
        )


class LooseLedgerWorld(World):
    ledger_kind = LooseLedger


class HastySink(Sink):
    """Mutant: the log is trimmed before the commit."""

    def _classify(self, records: list[Record]):
        self._log.trim(records[-1].offset + 1)
        return super()._classify(records)


class EarlyTrimWorld(World):
    sink_kind = HastySink


class LyingDisk(Disk):
    """Mutant: writes are acknowledged without a sync."""

    def _sync(self, descriptor: int) -> None:
        pass


class NoSyncWorld(World):
    disk_kind = LyingDisk


class BlindSink(Sink):
    """Mutant: known events are not looked up."""

    def _classify(self, records: list[Record]):
        found = super()._classify(records)
        for record in records:
            if (
                record not in [kept for kept, _ in found.kept]
                and record.entry.payload != b"\xff\xff"
            ):
                found.kept.append((record, self._format.decode(record)))
        return found


class ForgetfulIds(ForgetfulLedger):
    """Mutant: event ids are not stored."""

    def commit(self, lease, batch, in_transaction):
        return super().commit(lease, replace(batch, fingerprints={}), in_transaction)


class NoDedupWorld(World):
    sink_kind = BlindSink
    ledger_kind = ForgetfulIds


class StoreListing:
    """Mutant: readers list the store instead of the ledger."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def segments(self, stream: str) -> list[Segment]:
        found = []
        for number, key in enumerate(
            sorted(found.key for found in self._store.list(f"{stream}/")), start=1
        ):
            start, end = (int(part) for part in key.rsplit("/", 1)[1].split("-")[:2])
            rows = len(decode(self._store.get(key)))
            found.append(
                Segment(stream, "", 0, number, start, end, key, "", rows, 0, end - start - rows, 1)
            )
        return found


class StoreListingWorld(World):
    def catalogue(self) -> StoreListing:
        return StoreListing(self.store)


@pytest.mark.parametrize(
    ("kind", "caught"),
    [
        (StartOffsetWorld, "A"),
        (StoreListingWorld, "B"),
        (NoDedupWorld, "B"),
        # The next three stop early, since ledger and log no longer match.
        (NoSyncWorld, "stopped"),
        (LooseLedgerWorld, "stopped"),
        (EarlyTrimWorld, "stopped"),
    ],
)
def test_a_planted_mutant_is_caught(kind: type[World], caught: str, fast_directory: Path) -> None:
    assert is_caught(kind, caught, MUTANT_SEEDS, fast_directory)
