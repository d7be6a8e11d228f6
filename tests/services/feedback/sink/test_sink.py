"""Log to Parquet to ledger: names, accounting, order of the steps, and what each crash leaves
behind.
"""

import hashlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.feedback.codec import feedback_entry
from services.feedback.lake import parquet
from services.feedback.lake.audit import audit
from services.feedback.lake.ledger import FencedError, Ledger
from services.feedback.lake.object_store import Directory, ObjectStoreError
from services.feedback.projections.thumbs import fold
from services.feedback.sink.sink import FlushLimits, Sink, SinkStep
from services.feedback.spool.folder import inspect
from services.feedback.spool.frames import frame_bytes
from services.feedback.spool.log import OffsetOutOfRangeError
from services.feedback.spool.spool import Spool
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import FEEDBACK, entry, garbage, thumb
from tests.support.errors import refused

ROOM = 1 << 20


@dataclass
class PartitionKey:
    """A spool, a store and a ledger in one folder, as the service has them."""

    root: Path
    engine: Engine
    ledger: Ledger
    store: Directory
    spool: Spool

    def sink(self, rows: int = 100, at=lambda step: None, size: int = ROOM) -> Sink:
        sink = Sink(
            FEEDBACK, self.spool, self.store, self.ledger, FlushLimits(rows, size), fold, at
        )
        sink.assign()
        return sink

    def rows(self) -> list[parquet.Row]:
        keys = [
            segment.object_key for segment in self.ledger.segments("feedback") if segment.object_key
        ]
        return [row for key in keys for row in decode(self.store.get(key))]

    def event_ids(self) -> list[str]:
        return [str(row["event_id"]) for row in self.rows()]


def open_spool(root: Path) -> Spool:
    return Spool(root / "spool" / "feedback", max_bytes=ROOM, segment_bytes=ROOM)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[PartitionKey]:
    engine = open_sqlite(tmp_path / "ledger.db")
    place = PartitionKey(
        tmp_path, engine, Ledger(engine), Directory(tmp_path / "objects"), open_spool(tmp_path)
    )
    yield place
    place.spool.close()
    engine.dispose()


def ids(*names: str) -> list[str]:
    return [entry(name).event_id for name in names]


def test_a_segment_names_log_offsets_and_content(place: PartitionKey) -> None:
    place.spool.append([entry("a"), entry("b")])
    segment = place.sink().flush()
    assert segment is not None
    data = place.store.get(segment.object_key)
    assert segment.sha256 == hashlib.sha256(data).hexdigest()
    assert segment.object_key == (
        f"feedback/v1/topic_id={place.spool.topic_id}/partition=0/"
        f"00000000000000000000-00000000000000000002-{segment.sha256[:12]}.parquet"
    )
    assert [
        (row["topic_id"], row["offset"], row["event_id"], row["schema_version"])
        for row in place.rows()
    ] == [
        (place.spool.topic_id, 0, ids("a")[0], 1),
        (place.spool.topic_id, 1, ids("b")[0], 1),
    ]
    assert place.spool.bytes_used == 0


def test_nothing_waits_nothing_is_committed(place: PartitionKey) -> None:
    assert place.sink().flush() is None
    assert place.ledger.segments("feedback") == []


def test_dead_letters_and_repeated_events_are_accounted_for_in_the_same_commit(
    place: PartitionKey,
) -> None:
    place.spool.append([entry("a"), garbage("x"), entry("a"), entry("b")])
    segment = place.sink().flush()
    assert segment is not None
    assert (segment.rows, segment.dead_letters, segment.tombstones, segment.end_offset) == (
        2,
        1,
        1,
        4,
    )
    assert place.ledger.dead_letter_offsets(place.spool.topic_id, 0) == {1}
    assert place.event_ids() == ids("a", "b")


def test_an_event_of_an_earlier_segment_is_a_tombstone(place: PartitionKey) -> None:
    sink = place.sink()
    place.spool.append([entry("a")])
    sink.flush()
    place.spool.append([entry("a", up=False), entry("b")])
    segment = sink.flush()
    assert segment is not None
    assert (segment.rows, segment.tombstones) == (1, 1)
    assert [row["up"] for row in place.rows()] == [True, True]


def test_a_batch_of_dead_letters_only_has_no_object(place: PartitionKey) -> None:
    place.spool.append([garbage("x"), garbage("y")])
    segment = place.sink().flush()
    assert segment is not None
    assert (segment.object_key, segment.sha256, segment.rows, segment.dead_letters) == (
        "",
        "",
        0,
        2,
    )
    assert list(place.store.list("")) == []


def test_batches_keep_to_the_limits_of_rows_and_bytes(place: PartitionKey) -> None:
    place.spool.append([entry(name) for name in "abcde"])
    two_records = 2 * frame_bytes(entry("a"))
    by_bytes = place.sink(size=two_records).flush()
    by_rows = place.sink(rows=1).flush()
    assert by_bytes is not None
    assert by_rows is not None
    assert [(s.start_offset, s.end_offset) for s in (by_bytes, by_rows)] == [(0, 2), (2, 3)]


@pytest.mark.parametrize(
    ("step", "orphans", "committed"),
    [
        # The other steps are the simulation's.
        (SinkStep.STORED, 1, []),
        (SinkStep.COMMITTED, 0, ["a", "b"]),
    ],
)
def test_kill_9_around_the_commit_loses_nothing_and_repeats_nothing(
    place: PartitionKey, step: SinkStep, orphans: int, committed: list[str]
) -> None:
    place.spool.append([entry("a"), entry("b")])
    place.spool.close()
    program = f"from tests.services.feedback.crashing_sink import *; sink_until({str(step)!r}, Path({str(place.root)!r}))"
    assert (
        subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    )
    assert place.event_ids() == ids(*committed)
    place.spool = open_spool(place.root)
    place.spool.append([entry("c")])
    sink = place.sink()
    while sink.flush():
        pass
    assert place.event_ids() == ids("a", "b", "c")
    report = audit(place.ledger, place.store, lambda stream: inspect(place.root / "spool" / stream))
    assert (report.problems, report.orphans) == ([], orphans)


def test_a_zombie_that_goes_on_after_its_takeover_is_fenced_and_its_object_is_no_segment(
    place: PartitionKey,
) -> None:
    place.spool.append([entry("a"), entry("b"), entry("c")])

    def take_over(step: SinkStep) -> None:
        if step is SinkStep.STORED and not place.ledger.segments("feedback"):
            place.sink(rows=1).flush()

    zombie = place.sink(rows=2, at=take_over)
    with pytest.raises(FencedError):
        zombie.flush()
    zombie.assign()
    zombie.flush()
    assert place.event_ids() == ids("a", "b", "c")
    assert len(list(place.store.list(""))) == 3
    assert [s.end_offset for s in place.ledger.segments("feedback")] == [1, 3]


def test_an_object_whose_put_was_not_answered_is_put_again_under_the_same_name(
    place: PartitionKey,
) -> None:
    class Unanswered(Directory):
        puts = 0

        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            self.puts += 1
            if self.puts == 1:
                raise ObjectStoreError("reset")

    place.store = Unanswered(place.root / "objects")
    place.spool.append([entry("a")])
    sink = place.sink()
    with pytest.raises(ObjectStoreError):
        sink.flush()
    sink.flush()
    assert place.store.puts == 2
    assert place.event_ids() == ids("a")
    assert len(list(place.store.list(""))) == 1


def test_a_ledger_that_is_behind_the_spool_stops_the_sink(
    place: PartitionKey, tmp_path: Path
) -> None:
    place.spool.append([entry("a")])
    place.sink().flush()
    place.spool.append([entry("b")])
    other = open_sqlite(tmp_path / "new.db")
    place.ledger = Ledger(other)
    with refused(
        OffsetOutOfRangeError, field="offset", reason="OUT_OF_RANGE", limit="1 to 2"
    ) as caught:
        place.sink()
    assert " 0 " in caught.value.text
    other.dispose()


def test_a_ledger_that_is_ahead_of_the_spool_stops_the_sink(place: PartitionKey) -> None:
    topic_id = place.spool.topic_id
    place.spool.append([entry("a"), entry("b")])
    place.sink().flush()
    place.spool.close()
    folder = place.root / "spool" / "feedback"
    for path in folder.glob("*.log"):
        path.unlink()
    place.spool = open_spool(place.root)
    assert place.spool.topic_id == topic_id
    with refused(
        OffsetOutOfRangeError, field="offset", reason="OUT_OF_RANGE", limit="0 to 0"
    ) as caught:
        place.sink()
    assert " 2 " in caught.value.text


def test_a_spool_made_anew_is_another_log_and_overwrites_nothing(place: PartitionKey) -> None:
    place.spool.append([entry("a")])
    place.sink().flush()
    place.spool.close()
    (place.root / "spool").rename(place.root / "lost")
    place.spool = open_spool(place.root)
    place.spool.append([entry("b"), entry("a")])
    segment = place.sink().flush()
    assert segment is not None
    assert (segment.sequence, segment.start_offset, segment.tombstones) == (2, 0, 1)
    assert place.event_ids() == ids("a", "b")


def test_the_same_records_give_the_same_object_after_a_crash(place: PartitionKey) -> None:
    place.spool.append([feedback_entry(thumb("a"))])

    def crash(step: SinkStep) -> None:
        if step is SinkStep.STORED:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        place.sink(at=crash).flush()
    (orphan,) = place.store.list("")
    segment = place.sink().flush()
    assert segment is not None
    assert segment.object_key == orphan.key
