"""Orphans are found, and deleted only when old and impossible to commit."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory, ObjectStoreError
from services.feedback.lake.orphans import delete_orphans, find_orphans
from services.feedback.lake.readable_segments import ReadableSegment
from services.feedback.sink import FlushLimits, Sink, SinkStep
from services.feedback.spool.spool import Spool
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.samples import FEEDBACK, entry

ROOM = 1 << 20
HASH = "0123456789ab"


def now_us() -> int:
    return time.time_ns() // 1_000


@dataclass
class Deployment:
    """Two events in a committed segment, and a third in the spool."""

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
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    engine = open_sqlite(tmp_path / "ledger.db")
    deployment = Deployment(tmp_path, engine)
    yield deployment
    deployment.spool.close()
    engine.dispose()


def test_a_committed_object_is_no_orphan(deployment: Deployment) -> None:
    assert deployment.found() == {}
    assert deployment.delete(now_us()) == []
    assert all(deployment.store.get(key) for key in deployment.committed())


def test_an_old_orphan_below_the_ledgers_end_is_deleted(
    deployment: Deployment,
) -> None:
    key = deployment.key(0, 1)
    deployment.store.put(key, b"left by a fenced writer")
    assert deployment.found() == {key: True}
    assert deployment.delete(before_us=now_us() - 60_000_000) == []
    assert deployment.delete(before_us=now_us() + 1) == [key]
    assert deployment.found() == {}


def test_an_object_that_may_be_committed_stays_at_any_age(deployment: Deployment) -> None:
    """A writer frozen between PUT and commit for a day continues and needs its object."""
    deleted: list[str] = []

    def collect(step: SinkStep) -> None:
        if step is SinkStep.STORED:
            deleted.extend(deployment.delete(before_us=now_us() + 86_400_000_000))

    deployment.sink(on_step=collect).flush()
    assert deleted == []
    assert len(deployment.committed()) == 2
    assert all(deployment.store.get(key) for key in deployment.committed())


def test_foreign_objects_are_listed_and_kept(
    deployment: Deployment,
) -> None:
    foreign = [
        deployment.key(0, 1, "a-topic-that-the-ledger-does-not-know"),
        "feedback/v1/notes.txt",
    ]
    for key in foreign:
        deployment.store.put(key, b"1")
    assert deployment.found() == dict.fromkeys(foreign, False)
    assert deployment.delete(now_us() + 1) == []


def test_an_object_committed_during_the_listing_is_no_orphan(
    deployment: Deployment,
) -> None:
    class Slow(Directory):
        def list(self, prefix: str):
            yield from list(super().list(prefix))
            deployment.sink().flush()

    deployment.store = Slow(deployment.root / "objects")
    assert deployment.found() == {}
    assert len(deployment.committed()) == 2


@pytest.mark.parametrize("moment", ["end_offset", "served"])
def test_an_old_object_committed_during_the_ledger_read_is_not_dead(
    deployment: Deployment, moment: str
) -> None:
    """The frozen writer commits in the middle of the collection."""
    assert len(keys_of_the_next_batch(deployment)) == 1
    waiting = deployment.sink()

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

    orphans = find_orphans(Watched(deployment.engine), deployment.store, "feedback")
    assert list(delete_orphans(deployment.store, orphans, now_us() + 1_000_000)) == []
    assert len(deployment.committed()) == 2
    assert all(deployment.store.get(key) for key in deployment.committed())


def keys_of_the_next_batch(deployment: Deployment) -> set[str]:
    """Return the keys of a writer killed before its commit."""
    before = {found.key for found in deployment.store.list("")}

    def crash(step: SinkStep) -> None:
        if step is SinkStep.STORED:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        deployment.sink(on_step=crash).flush()
    return {found.key for found in deployment.store.list("")} - before


def test_a_failing_store_ends_the_collection_and_deletions_are_reported(
    deployment: Deployment,
) -> None:
    class Failing(Directory):
        def delete(self, key: str) -> None:
            if key == deployment.key(0, 2):
                raise ObjectStoreError("away")
            super().delete(key)

    deployment.store = Failing(deployment.root / "objects")
    for end in (1, 2, 3):
        deployment.store.put(deployment.key(0, end), b"1")
    orphans = sorted(
        find_orphans(deployment.ledger, deployment.store, "feedback"), key=lambda orphan: orphan.key
    )
    deleting = delete_orphans(deployment.store, orphans, now_us() + 1)
    assert next(deleting).key == deployment.key(0, 1)
    with pytest.raises(ObjectStoreError):
        next(deleting)
    assert set(deployment.found()) == {deployment.key(0, 2), deployment.key(0, 3)}
