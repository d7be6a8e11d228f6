"""Choice of segments to merge: small segments grow, full and new segments stay."""

import uuid

import pytest
from sqlalchemy import Engine
from uuid_utils import uuid7

from services.contracts.identifiers import created_us
from services.feedback.compaction.runs import (
    MAX_CLOCK_SKEW_US,
    RetractionRange,
    Run,
    RunLimits,
    choose_runs,
    find_retraction_range,
)
from services.feedback.events import Stream
from services.feedback.lake.readable_segments import DamagedObjectError, ReadableSegment
from services.feedback.wire import turn_entry
from tests.services.feedback.compacted import DAY, CompactedLog, turns_log
from tests.services.feedback.faults import Faults
from tests.services.feedback.memory import MemoryStore
from tests.services.feedback.samples import erased, name

LIMITS = RunLimits(1_000, 1_000_000)
NOW = 100


def segment(sequence: int, rows: int, commit_us: int = 1) -> ReadableSegment:
    return ReadableSegment(
        "feedback", sequence, sequence, "t", 0, 0, 1, "k", "", rows, 0, 0, 0, 0, 0, None, commit_us
    )


def cover(first: int, last: int, rows: int, size: int = 0) -> ReadableSegment:
    return ReadableSegment(
        "feedback", first, last, "", 0, 0, 0, "k", "", rows, 0, 0, 0, 0, size, 1, 1
    )


def runs(*items: ReadableSegment, suspects: tuple[int, ...] = ()) -> list[tuple[list[int], bool]]:
    """Return the last sequences of each run, and its merge flag."""

    def plain(run: Run) -> tuple[list[int], bool]:
        return [item.sequence for item in run.items], run.merge

    return [
        plain(run)
        for run in choose_runs(items, LIMITS, NOW, lambda item: item.sequence in suspects)
    ]


def test_small_neighbours_are_merged_up_to_the_limit() -> None:
    assert runs(*(segment(n, 300) for n in range(1, 8))) == [
        ([1, 2, 3], True),
        ([4, 5, 6], True),
        ([7], True),
    ]


def test_a_single_segment_is_compacted_but_a_compacted_one_is_not() -> None:
    assert runs(segment(1, 10)) == [([1], True)]
    assert runs(cover(1, 3, 10)) == []


def test_a_compacted_segment_waits_for_successors_of_equal_size() -> None:
    assert runs(cover(1, 9, 100), segment(10, 99)) == [([10], True)]
    assert runs(cover(1, 9, 100), cover(10, 10, 99), segment(11, 1)) == [([9, 10, 11], True)]
    assert runs(cover(1, 9, 100), cover(10, 10, 40), segment(11, 40)) == [([10, 11], True)]


def test_a_full_segment_stays_and_separates_its_neighbours() -> None:
    full = [cover(2, 2, 500), cover(2, 2, 3, size=500_000)]
    assert [runs(segment(1, 1), one, segment(3, 1)) for one in full] == [
        [([1], True), ([3], True)]
    ] * 2


def test_recent_segments_form_no_run() -> None:
    assert runs(segment(1, 1), segment(2, 1), segment(3, 1, commit_us=NOW + 1)) == [([1, 2], True)]


def test_suspect_segments_are_checked_at_any_size_and_age() -> None:
    items = [cover(1, 1, 900), cover(2, 2, 50), segment(3, 20), segment(4, 1, commit_us=NOW + 1)]
    assert runs(*items, suspects=(1, 2, 3, 4)) == [
        ([1], False),
        ([2], False),
        ([3], True),
        ([4], False),
    ]


def test_a_row_is_rewritten_once_per_doubling() -> None:
    """One segment per hour for 512 hours: each row is written log2(512) times instead of 512."""
    items: list[ReadableSegment] = []
    written = 0
    for hour in range(1, 513):
        items.append(segment(hour, 1))
        (run,) = choose_runs(items, RunLimits(10_000, 1), NOW, lambda item: False)
        rows = sum(item.rows for item in run.items)
        kept = items[: len(items) - len(run.items)]
        items = [*kept, cover(run.items[0].first_sequence, hour, rows)]
        written += rows
    assert [item.rows for item in items] == [512]
    assert written == sum(hour & -hour for hour in range(1, 513)) <= 512 * 10


@pytest.fixture
def log(engine: Engine) -> CompactedLog:
    store = MemoryStore(Faults(0))
    store._faults.on = False
    log = CompactedLog(engine, store)
    for _ in range(4):
        log.thumbs(1)
        log.pass_seconds(3 * DAY)
    return log


@pytest.fixture
def turns(log: CompactedLog) -> CompactedLog:
    turns = turns_log(log.engine, log.store)
    turns.now_us = log.now_us
    return turns


def at(day: int) -> str:
    """Return the id of an answer created on a day of the log, one second after its start."""
    milliseconds = (1_000_000_000_000 + day * DAY * 1_000_000) // 1_000 + 1_000
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62))


def retraction_turns(turns: CompactedLog, message_id: str) -> None:
    event = erased()
    event.message_id = message_id
    event.event_id = str(uuid.uuid4())
    turns.commit(turn_entry(event))


def looked(log: CompactedLog, known: int = 0) -> RetractionRange:
    return find_retraction_range(log.ledger, log.store, Stream.FEEDBACK, known)


def test_without_retracted_answers_no_object_is_read(
    log: CompactedLog, turns: CompactedLog
) -> None:
    assert looked(log) == RetractionRange(None, 0)
    turns.turns("m")
    assert looked(log) == RetractionRange(None, 1)


def test_a_pass_reads_back_to_the_oldest_retracted_answer_and_clock_skew(
    log: CompactedLog, turns: CompactedLog
) -> None:
    """Segments 1 to 4 were committed on days 0, 3, 6 and 9."""
    for message_id in (at(14), at(11), at(12)):
        retraction_turns(turns, message_id)
    assert MAX_CLOCK_SKEW_US == 7 * DAY * 1_000_000
    assert looked(log) == RetractionRange(3, 3)
    assert looked(log, known=2) == RetractionRange(3, 3)
    turns.turns("m")
    assert looked(log, known=3) == RetractionRange(None, 4)
    retraction_turns(turns, at(17))
    assert looked(log, known=4) == RetractionRange(None, 5), (
        "the last segment is older than the answer"
    )


def test_an_id_without_a_time_extends_the_range_to_all_segments(
    log: CompactedLog, turns: CompactedLog
) -> None:
    retraction_turns(turns, at(14))
    retraction_turns(turns, name("m"))
    assert looked(log) == RetractionRange(1, 2)


def test_known_retractions_in_compacted_turns_are_skipped(
    log: CompactedLog, turns: CompactedLog
) -> None:
    retraction_turns(turns, name("m"))
    retraction_turns(turns, at(14))
    turns.compaction().run(turns.stream)
    assert turns.shape() == [(1, 2, 2)]
    assert looked(log, known=1) == RetractionRange(4, 2)


def test_unreadable_turns_are_reported(log: CompactedLog, turns: CompactedLog) -> None:
    turns.turns("m")
    log.store.delete(turns.readable_segments()[0].object_key)
    with pytest.raises(DamagedObjectError):
        looked(log)


def test_an_id_contains_its_creation_time() -> None:
    before, after = created_us(str(uuid7())), created_us(str(uuid7()))
    assert 0 <= after - before < 60_000_000
    assert created_us(name("m")) == 0
