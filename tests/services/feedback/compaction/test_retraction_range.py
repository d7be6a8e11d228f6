"""How far back a pass looks: to the oldest answer that was taken back since the last whole pass,
and no further.
"""

import uuid

import pytest
from sqlalchemy import Engine

from services.feedback.codec import turn_entry
from services.feedback.compaction.retraction_range import (
    MAX_CLOCK_SKEW_US,
    RetractionRange,
    created_us,
    find_retraction_range,
)
from services.feedback.events import Stream
from services.feedback.lake.segment_object import DamagedObjectError
from services.session.identifiers import IdGenerator
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
    """The id of an answer that was minted on a day of the log, a second after it began."""
    milliseconds = (1_000_000_000_000 + day * DAY * 1_000_000) // 1_000 + 1_000
    return str(uuid.UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62))


def retraction_turns(turns: CompactedLog, message_id: str) -> None:
    event = erased()
    event.message_id = message_id
    event.event_id = str(uuid.uuid4())
    turns.commit(turn_entry(event))


def looked(log: CompactedLog, known: int = 0) -> RetractionRange:
    return find_retraction_range(log.ledger, log.store, Stream.FEEDBACK, known)


def test_without_an_answer_that_was_taken_back_nothing_is_looked_into(
    log: CompactedLog, turns: CompactedLog
) -> None:
    assert looked(log) == RetractionRange(None, 0)
    turns.turns("m")
    assert looked(log) == RetractionRange(None, 1)


def test_a_pass_looks_as_far_back_as_the_oldest_answer_was_written_and_clocks_differ(
    log: CompactedLog, turns: CompactedLog
) -> None:
    """Segments 1 to 4 were committed on the days 0, 3, 6 and 9."""
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


def test_an_answer_whose_id_tells_no_time_may_be_anywhere(
    log: CompactedLog, turns: CompactedLog
) -> None:
    retraction_turns(turns, at(14))
    retraction_turns(turns, name("m"))
    assert looked(log) == RetractionRange(1, 2)


def test_what_an_earlier_pass_knew_is_not_looked_for_again_in_a_cover_over_it(
    log: CompactedLog, turns: CompactedLog
) -> None:
    retraction_turns(turns, name("m"))
    retraction_turns(turns, at(14))
    turns.compaction().run(turns.stream)
    assert turns.shape() == [(1, 2, 2)]
    assert looked(log, known=1) == RetractionRange(4, 2)


def test_turns_that_cannot_be_read_are_told(log: CompactedLog, turns: CompactedLog) -> None:
    turns.turns("m")
    log.store.delete(turns.readable_segments()[0].object_key)
    with pytest.raises(DamagedObjectError):
        looked(log)


def test_an_id_tells_when_session_minted_it() -> None:
    before, after = created_us(IdGenerator().new_id()), created_us(IdGenerator().new_id())
    assert 0 <= after - before < 60_000_000
    assert created_us(name("m")) == 0
