"""What the ledger does not name is found, and deleted only when it is old and nobody can commit it
any more.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.feedback.lake.compacted_segments import ReadableSegment
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory, ObjectStoreError
from services.feedback.lake.orphans import delete_orphans, find_orphans
from services.feedback.sink.sink import FlushLimits, Sink, SinkStep
from services.feedback.spool.spool import Spool
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.samples import FEEDBACK, entry

ROOM = 1 << 20
HASH = "0123456789ab"


def now_us() -> int:
    return time.time_ns() // 1_000


@dataclass
class PartitionKey:
    """Two events in one committed segment, and a third in the spool."""

    root: Path
    engine: Engine

    def __post_init__(self) -> None:
        self.ledger, self.store = Ledger(self.engine), Directory(self.root / "objects")
        self.spool = Spool(self.root / "spool", max_bytes=ROOM, segment_bytes=ROOM)
        self.spool.append([entry("a"), entry("b")])
        self.sink().flush()
        self.spool.append([entry("c")])

    def sink(self, on_step=lambda step: None) -> Sink:
        sink = Sink(
            FEEDBACK, self.spool, self.store, self.ledger, FlushLimits(100, ROOM), on_step=on_step
        )
        sink.assign()
        return sink

    def key(self, start: int, end: int, topic_id: str | None = None) -> str:
        folder = f"feedback/v1/topic_id={topic_id or self.spool.topic_id}/partition=0"
        return f"{folder}/{start:020d}-{end:020d}-{HASH}.parquet"

    def found(self) -> dict[str, bool]:
        return {
            orphan.key: orphan.dead for orphan in find_orphans(self.ledger, self.store, "feedback")
        }

    def delete(self, before_us: int) -> list[str]:
        orphans = find_orphans(self.ledger, self.store, "feedback")
        return [orphan.key for orphan in delete_orphans(self.store, orphans, before_us)]

    def committed(self) -> list[str]:
        return [segment.object_key for segment in self.ledger.segments("feedback")]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[PartitionKey]:
    engine = open_sqlite(tmp_path / "ledger.db")
    place = PartitionKey(tmp_path, engine)
    yield place
    place.spool.close()
    engine.dispose()


def test_a_committed_object_is_no_orphan(place: PartitionKey) -> None:
    assert place.found() == {}
    assert place.delete(now_us()) == []
    assert all(place.store.get(key) for key in place.committed())


def test_an_orphan_behind_the_ledgers_end_is_dead_and_goes_when_it_is_old(
    place: PartitionKey,
) -> None:
    key = place.key(0, 1)
    place.store.put(key, b"left by a fenced writer")
    assert place.found() == {key: True}
    assert place.delete(before_us=now_us() - 60_000_000) == []
    assert place.delete(before_us=now_us() + 1) == [key]
    assert place.found() == {}


def test_what_may_still_be_committed_stays_however_old_it_is(place: PartitionKey) -> None:
    """A writer frozen between PUT and commit for a day goes on where it was: its object must be
    there.
    """
    deleted: list[str] = []

    def collect(step: SinkStep) -> None:
        if step is SinkStep.STORED:
            deleted.extend(place.delete(before_us=now_us() + 86_400_000_000))

    place.sink(on_step=collect).flush()
    assert deleted == []
    assert len(place.committed()) == 2
    assert all(place.store.get(key) for key in place.committed())


def test_what_another_log_or_another_program_has_put_there_is_listed_and_stays(
    place: PartitionKey,
) -> None:
    foreign = [place.key(0, 1, "a-topic-that-the-ledger-does-not-know"), "feedback/v1/notes.txt"]
    for key in foreign:
        place.store.put(key, b"1")
    assert place.found() == dict.fromkeys(foreign, False)
    assert place.delete(now_us() + 1) == []


def test_an_object_that_is_committed_while_the_store_is_listed_is_no_orphan(
    place: PartitionKey,
) -> None:
    class Slow(Directory):
        def list(self, prefix: str):
            yield from list(super().list(prefix))
            place.sink().flush()

    place.store = Slow(place.root / "objects")
    assert place.found() == {}
    assert len(place.committed()) == 2


@pytest.mark.parametrize("moment", ["end_offset", "served"])
def test_an_old_object_that_is_committed_while_the_ledger_is_read_is_not_dead(
    place: PartitionKey, moment: str
) -> None:
    """The frozen writer goes on in the middle of the collection."""
    assert len(keys_of_the_next_batch(place)) == 1
    waiting = place.sink()

    class Watched(Ledger):
        def end_offset(self, topic_id: str, partition: int) -> int:
            found = super().end_offset(topic_id, partition)
            go_on("end_offset")
            return found

        def readable_segments(
            self, stream: str, after_sequence: int = 0, limit: int | None = None
        ) -> list[ReadableSegment]:
            found = super().readable_segments(stream, after_sequence, limit)
            go_on("served")
            return found

    def go_on(now: str) -> None:
        if now == moment:
            waiting.flush()

    orphans = find_orphans(Watched(place.engine), place.store, "feedback")
    assert list(delete_orphans(place.store, orphans, now_us() + 1_000_000)) == []
    assert len(place.committed()) == 2
    assert all(place.store.get(key) for key in place.committed())


def keys_of_the_next_batch(place: PartitionKey) -> set[str]:
    """What a writer has put that was killed before its commit."""
    before = {found.key for found in place.store.list("")}

    def crash(step: SinkStep) -> None:
        if step is SinkStep.STORED:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        place.sink(on_step=crash).flush()
    return {found.key for found in place.store.list("")} - before


def test_a_failing_store_ends_the_collection_and_what_was_deleted_is_known(
    place: PartitionKey,
) -> None:
    class Failing(Directory):
        def delete(self, key: str) -> None:
            if key == place.key(0, 2):
                raise ObjectStoreError("away")
            super().delete(key)

    place.store = Failing(place.root / "objects")
    for end in (1, 2, 3):
        place.store.put(place.key(0, end), b"1")
    orphans = sorted(
        find_orphans(place.ledger, place.store, "feedback"), key=lambda orphan: orphan.key
    )
    deleting = delete_orphans(place.store, orphans, now_us() + 1)
    assert next(deleting).key == place.key(0, 1)
    with pytest.raises(ObjectStoreError):
        next(deleting)
    assert set(place.found()) == {place.key(0, 2), place.key(0, 3)}
