"""Sink from log to ledger: object keys, accounting, order of steps, and crashes."""

import asyncio
import base64
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Connection, Engine, insert, select, update
from thumbwheel.feedback.v1.events_pb2 import FeedbackEvent

from services.feedback.kafka.partition_sinks import KafkaLog
from services.feedback.lake import parquet
from services.feedback.lake.audit import audit
from services.feedback.lake.dead_letter_payloads import clear_payloads, clear_payloads_hourly
from services.feedback.lake.ledger import Batch, DeadLetter, Ledger
from services.feedback.lake.object_store import Directory, ObjectStoreError
from services.feedback.projections.thumbs import fold
from services.feedback.sink import (
    FlushLimits,
    Sink,
    SinkStep,
)
from services.feedback.spool.log import (
    Entry,
    OffsetGapError,
    OffsetOutOfRangeError,
    Record,
    Signature,
    frame_bytes,
)
from services.feedback.spool.spool import Spool, inspect
from services.feedback.store import tables
from services.feedback.store.database import FencedError
from services.feedback.wire import feedback_entry
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import FEEDBACK, correction, entry, garbage, thumb
from tests.support.errors import refused

ROOM = 1 << 20


@dataclass
class Deployment:
    """Spool, store and ledger in one folder, as in the service."""

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
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    engine = open_sqlite(tmp_path / "ledger.db")
    deployment = Deployment(
        tmp_path, engine, Ledger(engine), Directory(tmp_path / "objects"), open_spool(tmp_path)
    )
    yield deployment
    deployment.spool.close()
    engine.dispose()


def ids(*names: str) -> list[str]:
    return [entry(name).event_id for name in names]


def test_a_segment_names_log_offsets_and_content(deployment: Deployment) -> None:
    deployment.spool.append([entry("a"), entry("b")])
    segment = deployment.sink().flush()
    assert segment is not None
    data = deployment.store.get(segment.object_key)
    assert segment.sha256 == hashlib.sha256(data).hexdigest()
    assert segment.object_key == (
        f"feedback/v1/topic_id={deployment.spool.topic_id}/partition=0/"
        f"00000000000000000000-00000000000000000002-{segment.sha256[:12]}.parquet"
    )
    assert [
        (row["topic_id"], row["offset"], row["event_id"], row["schema_version"])
        for row in deployment.rows()
    ] == [
        (deployment.spool.topic_id, 0, ids("a")[0], 1),
        (deployment.spool.topic_id, 1, ids("b")[0], 1),
    ]
    assert deployment.spool.bytes_used == 0


def test_an_empty_log_commits_nothing(deployment: Deployment) -> None:
    assert deployment.sink().flush() is None
    assert deployment.ledger.segments("feedback") == []


def test_dead_letters_and_repeated_events_are_accounted_for_in_the_same_commit(
    deployment: Deployment,
) -> None:
    deployment.spool.append([entry("a"), garbage("x"), entry("a"), entry("b")])
    segment = deployment.sink().flush()
    assert segment is not None
    assert (segment.rows, segment.dead_letters, segment.tombstones, segment.end_offset) == (
        2,
        1,
        1,
        4,
    )
    assert deployment.ledger.dead_letter_offsets(deployment.spool.topic_id, 0) == {1}
    assert deployment.event_ids() == ids("a", "b")


def test_an_event_of_an_earlier_segment_is_a_tombstone(deployment: Deployment) -> None:
    sink = deployment.sink()
    deployment.spool.append([entry("a")])
    sink.flush()
    deployment.spool.append([entry("a", up=False), entry("b")])
    segment = sink.flush()
    assert segment is not None
    assert (segment.rows, segment.tombstones) == (1, 1)
    assert [row["up"] for row in deployment.rows()] == [True, True]


def test_a_batch_of_dead_letters_only_has_no_object(deployment: Deployment) -> None:
    deployment.spool.append([garbage("x"), garbage("y")])
    segment = deployment.sink().flush()
    assert segment is not None
    assert (segment.object_key, segment.sha256, segment.rows, segment.dead_letters) == (
        "",
        "",
        0,
        2,
    )
    assert list(deployment.store.list("")) == []


@pytest.mark.parametrize(
    ("offsets", "missing"), [((1, 2), "0"), ((0, 1, 3), "2"), ((0, 1, 1, 2), "2")]
)
def test_a_gap_in_the_offsets_is_refused_and_not_counted_as_tombstones(
    deployment: Deployment, offsets: tuple[int, ...], missing: str
) -> None:
    """Finding S-23: offsets that a consumer skipped were accounted for as tombstones."""
    log = KafkaLog("1d2c0f4e-6a6b-4f0e-9d1c-1f5a3d2b7c11", 0, lambda: None)
    sink = Sink(FEEDBACK, log, deployment.store, deployment.ledger, FlushLimits(100, ROOM), fold)
    sink.assign()
    assert log.take_seek_offset() == 0
    log.offer([Record(offset, 1, entry(f"r{at}")) for at, offset in enumerate(offsets)])
    with refused(OffsetGapError, field="offset", limit=missing):
        sink.flush()
    assert deployment.ledger.segments("feedback") == []


def sealed(said: FeedbackEvent) -> Entry:
    """Return an entry in the form that relays publish: sealed, here with random bytes."""
    said.sealed = b"\x01" + os.urandom(60)
    if said.HasField("correction"):
        said.correction.ClearField("text")
    return feedback_entry(said)


def sink_of_topic(
    deployment: Deployment, records: Sequence[Record], accepts_unsigned: bool = False
) -> None:
    """Sink the records as a batch of a topic."""
    log = KafkaLog("1d2c0f4e-6a6b-4f0e-9d1c-1f5a3d2b7c11", 0, lambda: None)
    sink = Sink(
        FEEDBACK,
        log,
        deployment.store,
        deployment.ledger,
        FlushLimits(100, ROOM),
        fold,
        accepts_unsigned=lambda: accepts_unsigned,
    )
    sink.assign()
    log.take_seek_offset()
    log.offer(records)
    assert sink.flush() is not None


def dead_letters(deployment: Deployment) -> dict[int, str]:
    """Return the errors of all dead letters by offset."""
    with deployment.engine.connect() as connection:
        return {row.offset: row.error for row in connection.execute(select(tables.dead_letters))}


def test_forged_records_are_dead_letters_and_take_no_id_before_the_owner(
    deployment: Deployment,
) -> None:
    """Finding S-22: a client of the topic forged thumbs and corrections of any user."""
    owner, forged = sealed(thumb("a")), sealed(thumb("a", up=False))
    before = {outcome: unverified(outcome) for outcome in ("missing", "wrong")}
    sink_of_topic(
        deployment,
        [
            Record(0, 1, forged, Signature.MISSING),
            Record(1, 1, forged, Signature.WRONG),
            Record(2, 1, sealed(correction("b")), Signature.WRONG),
            Record(3, 1, owner),
            # After the owner: no silent tombstone either.
            Record(4, 1, forged, Signature.WRONG),
        ],
    )
    assert dead_letters(deployment) == {
        0: "signature is missing",
        1: "signature is wrong",
        2: "signature is wrong",
        4: "signature is wrong",
    }
    (row,) = deployment.rows()
    assert (row["event_id"], row["up"]) == (owner.event_id, True)
    assert deployment.ledger.fingerprints("feedback", [owner.event_id]) == {
        owner.event_id: owner.fingerprint
    }
    assert unverified("missing") - before["missing"] == 1
    assert unverified("wrong") - before["wrong"] == 3


def unverified(outcome: str) -> float:
    """Return the count of records without a valid signature."""
    labels = {"stream": "feedback", "outcome": outcome}
    name = "thumbwheel_feedback_unverified_records_total"
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.mark.parametrize("accepts_unsigned", [False, True])
def test_forged_record_does_not_release_the_claim_of_the_owner(
    deployment: Deployment, accepts_unsigned: bool
) -> None:
    owner = entry("a")
    claim = {"stream": "feedback", "event_id": owner.event_id, "fingerprint": owner.fingerprint}
    claim |= {"accept_order": 7, "holders": 1, "claim_us": 1}
    with deployment.engine.begin() as connection:
        connection.execute(insert(tables.claims).values(claim))
    # Plain texts, which no version writes that signs or whose unsigned records are accepted.
    sink_of_topic(deployment, [Record(0, 1, owner, Signature.MISSING)], accepts_unsigned)
    reason = "texts are not sealed" if accepts_unsigned else "signature is missing"
    assert dead_letters(deployment) == {0: reason}
    with deployment.engine.connect() as connection:
        assert connection.execute(select(tables.claims.c.event_id)).scalars().all() == [
            owner.event_id
        ]


def test_unsigned_records_of_the_earlier_version_are_accepted_during_the_upgrade(
    deployment: Deployment,
) -> None:
    before = unverified("accepted")
    old = [Record(at, 1, sealed(thumb(f"r{at}")), Signature.MISSING) for at in range(3)]
    sink_of_topic(
        deployment,
        [*old, Record(3, 1, sealed(thumb("r3")), Signature.WRONG)],
        accepts_unsigned=True,
    )
    assert deployment.event_ids() == ids("r0", "r1", "r2")
    assert dead_letters(deployment) == {3: "signature is wrong"}
    assert unverified("accepted") - before == 3


def test_batches_keep_to_the_limits_of_rows_and_bytes(deployment: Deployment) -> None:
    deployment.spool.append([entry(name) for name in "abcde"])
    two_records = 2 * frame_bytes(entry("a"))
    by_bytes = deployment.sink(size=two_records).flush()
    by_rows = deployment.sink(rows=1).flush()
    assert by_bytes is not None
    assert by_rows is not None
    assert [(s.start_offset, s.end_offset) for s in (by_bytes, by_rows)] == [(0, 2), (2, 3)]


@pytest.mark.parametrize(
    ("step", "orphans", "committed"),
    [
        # The simulation covers the other steps.
        (SinkStep.STORED, 1, []),
        (SinkStep.COMMITTED, 0, ["a", "b"]),
    ],
)
def test_kill_9_around_the_commit_loses_and_repeats_no_event(
    deployment: Deployment, step: SinkStep, orphans: int, committed: list[str]
) -> None:
    deployment.spool.append([entry("a"), entry("b")])
    deployment.spool.close()
    program = (
        "from tests.services.feedback.crashing_sink import *; "
        f"sink_until({str(step)!r}, Path({str(deployment.root)!r}))"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    )
    assert deployment.event_ids() == ids(*committed)
    deployment.spool = open_spool(deployment.root)
    deployment.spool.append([entry("c")])
    sink = deployment.sink()
    while sink.flush():
        pass
    assert deployment.event_ids() == ids("a", "b", "c")
    report = audit(
        deployment.ledger,
        deployment.store,
        lambda stream: inspect(deployment.root / "spool" / stream),
    )
    assert (report.problems, report.orphans) == ([], orphans)


def test_a_zombie_is_fenced_after_a_takeover_and_its_object_is_an_orphan(
    deployment: Deployment,
) -> None:
    deployment.spool.append([entry("a"), entry("b"), entry("c")])

    def take_over(step: SinkStep) -> None:
        if step is SinkStep.STORED and not deployment.ledger.segments("feedback"):
            deployment.sink(rows=1).flush()

    zombie = deployment.sink(rows=2, at=take_over)
    with pytest.raises(FencedError):
        zombie.flush()
    zombie.assign()
    zombie.flush()
    assert deployment.event_ids() == ids("a", "b", "c")
    assert len(list(deployment.store.list(""))) == 3
    assert [s.end_offset for s in deployment.ledger.segments("feedback")] == [1, 3]


def test_a_put_without_a_response_is_repeated_under_the_same_key(
    deployment: Deployment,
) -> None:
    class Unanswered(Directory):
        puts = 0

        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            self.puts += 1
            if self.puts == 1:
                raise ObjectStoreError("reset")

    deployment.store = Unanswered(deployment.root / "objects")
    deployment.spool.append([entry("a")])
    sink = deployment.sink()
    with pytest.raises(ObjectStoreError):
        sink.flush()
    sink.flush()
    assert deployment.store.puts == 2
    assert deployment.event_ids() == ids("a")
    assert len(list(deployment.store.list(""))) == 1


@pytest.mark.parametrize(("end", "is_fenced"), [(0, True), (1, False), (2, False)])
def test_a_ledger_that_has_moved_back_is_noticed_without_events(
    deployment: Deployment, end: int, is_fenced: bool
) -> None:
    sink = deployment.sink()
    deployment.spool.append([entry("a")])
    sink.flush()
    with deployment.engine.begin() as connection:
        connection.execute(update(tables.partitions).values(end_offset=end))
    with refused(FencedError, field="offset") if is_fenced else nullcontext():
        sink.check()


def test_a_ledger_that_is_behind_the_spool_stops_the_sink(
    deployment: Deployment, tmp_path: Path
) -> None:
    deployment.spool.append([entry("a")])
    deployment.sink().flush()
    deployment.spool.append([entry("b")])
    other = open_sqlite(tmp_path / "new.db")
    deployment.ledger = Ledger(other)
    with refused(
        OffsetOutOfRangeError, field="offset", reason="OUT_OF_RANGE", limit="1 to 2"
    ) as caught:
        deployment.sink()
    assert " 0 " in caught.value.text
    other.dispose()


def test_a_ledger_that_is_ahead_of_the_spool_stops_the_sink(deployment: Deployment) -> None:
    topic_id = deployment.spool.topic_id
    deployment.spool.append([entry("a"), entry("b")])
    deployment.sink().flush()
    deployment.spool.close()
    folder = deployment.root / "spool" / "feedback"
    for path in folder.glob("*.log"):
        path.unlink()
    deployment.spool = open_spool(deployment.root)
    assert deployment.spool.topic_id == topic_id
    with refused(
        OffsetOutOfRangeError, field="offset", reason="OUT_OF_RANGE", limit="0 to 0"
    ) as caught:
        deployment.sink()
    assert " 2 " in caught.value.text


def test_a_recreated_spool_is_another_log_and_overwrites_nothing(deployment: Deployment) -> None:
    deployment.spool.append([entry("a")])
    deployment.sink().flush()
    deployment.spool.close()
    (deployment.root / "spool").rename(deployment.root / "lost")
    deployment.spool = open_spool(deployment.root)
    deployment.spool.append([entry("b"), entry("a")])
    segment = deployment.sink().flush()
    assert segment is not None
    assert (segment.sequence, segment.start_offset, segment.tombstones) == (2, 0, 1)
    assert deployment.event_ids() == ids("a", "b")


def test_the_same_records_give_the_same_object_after_a_crash(deployment: Deployment) -> None:
    deployment.spool.append([feedback_entry(thumb("a"))])

    def crash(step: SinkStep) -> None:
        if step is SinkStep.STORED:
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError):
        deployment.sink(at=crash).flush()
    (orphan,) = deployment.store.list("")
    segment = deployment.sink().flush()
    assert segment is not None
    assert segment.object_key == orphan.key


TOPIC = "11111111-1111-1111-1111-111111111111"
SECOND_US = 1_000_000


def nothing(connection: Connection) -> None:
    pass


def fill(engine: Engine, *times_us: int) -> None:
    """Commit a segment with one dead letter."""
    times = iter(times_us)
    ledger = Ledger(engine, now_us=lambda: next(times))
    lease = ledger.lease("feedback", TOPIC, 0)
    for end in range(1, len(times_us) + 1):
        letters = [DeadLetter(end - 1, "not valid protobuf", b"\xffwords")]
        lease, _ = ledger.commit(lease, Batch(end, "", "", 0, letters, {}, ()), nothing)


def payloads(engine: Engine) -> list[bytes]:
    query = select(tables.dead_letters.c.payload_base64).order_by(tables.dead_letters.c.offset)
    with engine.begin() as connection:
        return [base64.b64decode(payload) for payload in connection.execute(query).scalars()]


def test_old_dead_letters_are_cleared_and_still_counted(engine: Engine) -> None:
    fill(engine, 5, 9)
    assert clear_payloads(engine, 5) == 0
    assert clear_payloads(engine, 6) == 1
    assert payloads(engine) == [b"", b"\xffwords"]
    assert clear_payloads(engine, 6) == 0
    assert Ledger(engine).dead_letter_offsets(TOPIC, 0) == {0, 1}


async def test_the_service_clears_old_dead_letters(engine: Engine) -> None:
    fill(engine, 1 * SECOND_US, 50 * SECOND_US)
    sweeping = asyncio.create_task(
        clear_payloads_hourly(engine, 30.0, now_us=lambda: 60 * SECOND_US)
    )
    async with asyncio.timeout(10):
        while payloads(engine)[0]:
            await asyncio.sleep(0.01)
    sweeping.cancel()
    assert payloads(engine) == [b"", b"\xffwords"]
