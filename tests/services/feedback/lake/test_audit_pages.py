"""Paged audit: equal results for any page size, also during concurrent compaction."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, update

from services.feedback.lake.audit import Report, audit
from services.feedback.lake.ledger import Ledger, Segment
from services.feedback.lake.object_store import Directory
from services.feedback.lake.orphans import find_orphans
from services.feedback.lake.readable_segments import ReadableSegment
from services.feedback.projections import thumbs
from services.feedback.store import tables
from tests.services.feedback.compacted import CompactedLog
from tests.services.feedback.samples import garbage

PAGE = 3


class ObservedLedger(Ledger):
    """Ledger that records the longest response and calls a function after the n-th read."""

    longest = 0
    work: dict[str, Callable[[], object]]

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self.answers: Counter[str] = Counter()

    def readable_segments(
        self, stream: str, after_sequence: int = 0, limit: int | None = None
    ) -> list[ReadableSegment]:
        found = super().readable_segments(stream, after_sequence, limit)
        self._heard("served", stream, found)
        return found

    def readable_pages(
        self, stream: str, after_sequence: int = 0, page: int = PAGE
    ) -> Iterator[list[ReadableSegment]]:
        return super().readable_pages(stream, after_sequence, PAGE)

    def segments(
        self, stream: str, after_sequence: int = 0, limit: int | None = None
    ) -> list[Segment]:
        found = super().segments(stream, after_sequence, limit)
        self._heard("segments", stream, found)
        return found

    def _heard(self, kind: str, stream: str, found: list) -> None:
        self.longest = max(self.longest, len(found))
        if stream == "feedback" and found:
            self.answers[kind] += 1
            if work := self.work.pop(f"{kind}_{self.answers[kind]}", None):
                work()


@pytest.fixture
def log(sqlite_engine: Engine, tmp_path: Path) -> CompactedLog:
    log = CompactedLog(sqlite_engine, Directory(tmp_path / "objects"), partitions=2)
    for number in range(10):
        log.thumbs(2, partition=number % 2)
    log.commit(garbage("x"))
    return log


def audited(log: CompactedLog, **work: Callable[[], object]) -> tuple[Report, ObservedLedger]:
    ledger = ObservedLedger(log.engine)
    ledger.work = dict(work)
    report = audit(ledger, log.store, lambda stream: log.logs if stream == "feedback" else [], PAGE)
    assert not ledger.work, "what should happen meanwhile never did"
    return report, ledger


def test_pages_are_bounded_and_counts_cover_all_segments(log: CompactedLog) -> None:
    report, ledger = audited(log)
    assert report.problems == []
    assert sum(figures.segments for figures in report.figures) == 11
    assert sum(figures.rows for figures in report.figures) == 20
    assert sum(figures.dead_letters for figures in report.figures) == 1
    assert ledger.longest == PAGE


def test_a_compacted_segment_larger_than_a_page_is_checked(log: CompactedLog) -> None:
    log.compaction().run(log.stream)
    report, _ = audited(log)
    assert report.problems == []
    assert (report.covers[0].segments, report.covers[0].rows) == (11, 20)


@pytest.mark.parametrize("moment", ["served_1", "served_2", "segments_2", "served_4", "segments_4"])
def test_compaction_between_two_pages_is_no_problem(log: CompactedLog, moment: str) -> None:
    """The compacted segment starts before the page, and objects of the current page are deleted."""
    report, _ = audited(log, **{moment: lambda: log.compaction().run(log.stream)})
    assert report.problems == []
    assert [item.is_compacted for item in log.readable_segments()] == [True]
    assert sum(figures.segments for figures in report.figures) == 11


@pytest.mark.parametrize("moment", ["served_1", "served_4", "segments_4"])
def test_segments_committed_during_the_audit_are_counted(log: CompactedLog, moment: str) -> None:
    report, _ = audited(log, **{moment: lambda: log.thumbs(3)})
    assert report.problems == []
    assert sum(figures.rows for figures in report.figures) == 23


@pytest.mark.parametrize("first", [2, 3, 4, 5])
def test_overlapping_compacted_segments_are_found_at_any_page_size(
    log: CompactedLog, first: int
) -> None:
    log.compaction().run(log.stream)
    for _ in range(4):
        log.thumbs(2)
    (cover, *_) = log.readable_segments()
    with log.engine.begin() as connection:
        values = vars(cover) | {
            "first_sequence": first,
            "last_sequence": 12,
            "object_key": "",
            "rows": 0,
        }
        connection.execute(
            tables.covers.insert().values(
                {column.name: values[column.name] for column in tables.covers.c}
            )
        )
    report, _ = audited(log)
    found = {(problem.field, problem.reason) for problem in report.problems}
    assert (f"feedback compacted segment {first} to 12", "SEQUENCE_MISMATCH") in found


def test_a_missing_object_is_reported_once(log: CompactedLog) -> None:
    log.store.delete(log.readable_segments()[4].object_key)
    report, _ = audited(log)
    (problem,) = report.problems
    assert (problem.field, problem.reason) == ("feedback segment 5", "MISSING")


def test_orphans_are_found_at_any_batch_size(log: CompactedLog) -> None:
    log.compaction().run(log.stream)
    log.thumbs(2)
    for number in range(5):
        log.store.put(f"feedback/v1/left-{number}.parquet", b"1")
    log.store.put(log.ledger.segments("feedback")[0].object_key, b"left by a writer that was late")
    found = {}
    for at_once in (1, 2, 100):
        ledger = ObservedLedger(log.engine)
        ledger.work = {}
        found[at_once] = sorted(
            (one.key, one.dead) for one in find_orphans(ledger, log.store, "feedback", at_once)
        )
    assert found[1] == found[2] == found[100]
    assert [dead for _, dead in found[1]] == [False] * 5 + [True]


def test_tables_are_rebuilt_page_by_page(
    log: CompactedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.feedback.projections.projection.PAGE_SIZE", PAGE)
    with log.engine.begin() as connection:
        before = connection.execute(tables.thumbs.select()).all()
        connection.execute(update(tables.thumb_positions).values(end_offset=0))
    assert before
    assert thumbs.catch_up(log.ledger, log.store, "feedback")
    with log.engine.begin() as connection:
        assert connection.execute(tables.thumbs.select()).all() == before
