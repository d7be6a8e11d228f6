"""Range of a pass: back to the oldest answer retracted since the last complete pass."""

import uuid

import pytest
from sqlalchemy import Engine
from uuid_utils import uuid7

from services.feedback.compaction.retraction_range import (
    MAX_CLOCK_SKEW_US,
    RetractionRange,
    created_us,
    find_retraction_range,
)
from services.feedback.events import Stream
from services.feedback.lake.readable_segments import DamagedObjectError
from services.feedback.wire import turn_entry
from tests.services.feedback.compacted import DAY, CompactedLog, turns_log
from tests.services.feedback.faults import Faults
from tests.services.feedback.memory import MemoryStore
from tests.services.feedback.samples import erased, name


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
