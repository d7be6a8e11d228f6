"""Audit of a sound log, and of each kind of planted damage."""

import hashlib
import re
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, update

from services.feedback import wire as codec
from services.feedback.lake import parquet
from services.feedback.lake.audit import Report, audit
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.sink import FlushLimits, Sink
from services.feedback.spool.spool import Spool, inspect
from services.feedback.store.tables import dead_letters, event_ids, partitions, segments
from tests.services.feedback.databases import open_sqlite
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import FEEDBACK, entry, garbage, thumb

ROOM = 1 << 25


@dataclass
class Log:
    """Log with three segments of two, a dead letter, a repeated event, and a waiting event."""

    root: Path
    segment_bytes: int = 1

    def __post_init__(self) -> None:
        self.engine = open_sqlite(self.root / "ledger.db")
        self.ledger, self.store = Ledger(self.engine), Directory(self.root / "objects")
        self.spool = Spool(
            self.root / "spool" / "feedback", max_bytes=ROOM, segment_bytes=self.segment_bytes
        )
        sink = Sink(FEEDBACK, self.spool, self.store, self.ledger, FlushLimits(2, ROOM))
        sink.assign()
        for item in (
            entry("a"),
            entry("b"),
            garbage("x"),
            entry("c"),
            entry("a"),
            entry("d"),
            entry("waits"),
        ):
            self.spool.append([item])
        for _ in range(3):
            sink.flush()

    def audit(self) -> Report:
        return audit(self.ledger, self.store, lambda stream: inspect(self.root / "spool" / stream))

    def objects(self) -> list[Path]:
        return sorted((self.root / "objects").rglob("*.parquet"))

    def change(self, statement) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    log.spool.close()
    log.engine.dispose()


def test_a_sound_log_has_counts_and_no_problem(log: Log) -> None:
    (log.root / "objects/feedback/v1/orphan.parquet").write_bytes(b"")
    report = log.audit()
    (figures,) = report.figures
    assert report.problems == []
    assert (figures.segments, figures.end_offset, figures.rows) == (3, 6, 4)
    assert (figures.dead_letters, figures.tombstones, figures.waiting, report.orphans) == (
        1,
        1,
        1,
        1,
    )
    assert "every offset is accounted for" in report.lines()[-1]


def _swap(log: Log) -> None:
    first, second, _ = log.objects()
    first.write_bytes(second.read_bytes())


def _rewrite(log: Log) -> None:
    """Remove a row and adapt the hash."""
    path = log.objects()[0]
    data = parquet.encode_feedback(decode(path.read_bytes())[:1])
    path.write_bytes(data)
    log.change(
        update(segments)
        .where(segments.c.sequence == 1)
        .values(sha256=hashlib.sha256(data).hexdigest())
    )


# Damage, name and reason of the finding, and numbers in its text.
DAMAGE: dict[str, tuple[Callable[[Log], None], str, str, tuple[int, ...]]] = {
    "object missing": (lambda log: log.objects()[1].unlink(), "feedback segment 2", "MISSING", ()),
    "object replaced": (_swap, "feedback segment 1", "MISMATCH", ()),
    "row missing": (_rewrite, "feedback segment 1", "ROWS_MISMATCH", (1, 2)),
    "segment missing": (
        lambda log: log.change(delete(segments).where(segments.c.sequence == 2)),
        "feedback segment 3",
        "OFFSETS_MISSING",
        (4, 2),
    ),
    "dead letter missing": (
        lambda log: log.change(delete(dead_letters)),
        "feedback segment 2",
        "DEAD_LETTERS_MISMATCH",
        (0, 1),
    ),
    "dead letter that is a row": (
        lambda log: log.change(
            insert(dead_letters).values(
                topic_id=log.spool.topic_id, partition=0, offset=0, error="", payload_base64=""
            )
        ),
        "feedback segment 1",
        "ROWS_OUT_OF_PLACE",
        (),
    ),
    "accounts wrong": (
        lambda log: log.change(
            update(segments).where(segments.c.sequence == 3).values(tombstones=0)
        ),
        "feedback segment 3",
        "OFFSETS_MISMATCH",
        (2,),
    ),
    "spool deleted": (
        lambda log: [path.unlink() for path in (log.root / "spool/feedback").glob("*.log")],
        "feedback",
        "LOG_TOO_SHORT",
        (0, 6),
    ),
    "ledger behind": (
        lambda log: log.change(update(partitions).values(end_offset=1)),
        "feedback",
        "OFFSETS_LOST",
        (1, 6),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_planted_damage_is_found(log: Log, name: str) -> None:
    damage, field, reason, numbers = DAMAGE[name]
    damage(log)
    report = log.audit()
    (problem,) = [
        problem for problem in report.problems if (problem.field, problem.reason) == (field, reason)
    ]
    assert tuple(map(int, re.findall(r"\b\d+\b", problem.text))) == numbers or not numbers
    assert str(problem) in report.lines()
    assert "problems" in report.lines()[-1]


def test_a_duplicate_event_is_found(log: Log) -> None:
    sink = Sink(FEEDBACK, log.spool, log.store, log.ledger, FlushLimits(2, ROOM))
    log.change(delete(event_ids))
    sink.assign()
    log.spool.append([entry("a")])
    sink.flush()
    assert "DUPLICATE" in {problem.reason for problem in log.audit().problems}


def test_an_audit_of_long_texts_uses_constant_memory(tmp_path: Path) -> None:
    """Audit objects with long texts in constant memory, since the audit runs in a replica's pod."""
    log = Log(tmp_path, segment_bytes=ROOM)
    for number in range(500):
        event = thumb(f"long {number}")
        event.sealed = b"\x01" + bytes(20_000)
        log.spool.append([codec.feedback_entry(event)])
    sink = Sink(FEEDBACK, log.spool, log.store, log.ledger, FlushLimits(1_000, ROOM))
    sink.assign()
    while sink.flush():
        pass
    tracemalloc.start()
    try:
        report = log.audit()
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        log.spool.close()
        log.engine.dispose()
    assert report.problems == []
    assert sum(figures.rows for figures in report.figures) == 505, report.figures
    assert most < 5_000_000, most
