"""Partition log: the sink reads exactly the records fetched by the consumer."""

import pytest

from services.feedback.kafka.partition_log import KafkaLog
from services.feedback.spool.log import (
    OffsetOutOfRangeError,
    Record,
    TopicReplacedError,
    frame_bytes,
)
from tests.services.feedback.samples import entry

ROOM = 1 << 20


class Topic:
    """Topic with an id until its recreation."""

    def __init__(self) -> None:
        self.asked, self.is_anew = 0, False

    def require(self) -> None:
        self.asked += 1
        if self.is_anew:
            raise TopicReplacedError("anew")


def records(start: int, end: int) -> list[Record]:
    return [Record(offset, 1, entry(f"r{offset}")) for offset in range(start, end)]


def offsets(log: KafkaLog, start: int, most: int = 100, size: int = ROOM) -> list[int]:
    return [record.offset for record in log.read(start, most, size)]


@pytest.fixture
def topic() -> Topic:
    return Topic()


@pytest.fixture
def log(topic: Topic) -> KafkaLog:
    """Return a log with records 3 and 4, after its seek."""
    log = KafkaLog("topic", 2, topic.require)
    assert offsets(log, 3) == []
    assert log.take_seek_offset() == 3
    log.offer(records(3, 5))
    return log


def test_the_first_read_requests_a_seek(topic: Topic) -> None:
    log = KafkaLog("topic", 2, topic.require)
    assert log.take_seek_offset() is None
    log.offer(records(0, 2))
    assert offsets(log, 0) == []
    log.offer(records(0, 2))
    assert log.take_seek_offset() == 0
    log.offer(records(0, 1))
    assert offsets(log, 0) == [0], "what was fetched before the seek does not count"
    assert log.take_seek_offset() is None


def test_fetched_records_are_read_within_limits_and_dropped_when_sunk(log: KafkaLog) -> None:
    log.offer(records(5, 8))
    assert offsets(log, 3, most=2) == [3, 4]
    assert offsets(log, 3, size=3 * frame_bytes(entry("r3"))) == [3, 4, 5]
    assert (log.end_offset, log.bytes_used) == (8, 5 * frame_bytes(entry("r3")))
    log.trim(6)
    assert (log.sunk, offsets(log, 6), log.bytes_used) == (6, [6, 7], 2 * frame_bytes(entry("r3")))
    log.trim(8)
    assert (offsets(log, 8), log.end_offset, log.bytes_used) == ([], 8, 0)


def test_gaps_in_offsets_need_no_seek(log: KafkaLog) -> None:
    log.offer(records(9, 10))
    assert offsets(log, 5) == [9]
    assert log.take_seek_offset() is None


@pytest.mark.parametrize("start", [0, 9])
def test_a_read_at_another_offset_requests_a_seek(log: KafkaLog, start: int) -> None:
    assert offsets(log, start) == []
    log.offer(records(5, 6))
    assert (log.take_seek_offset(), log.bytes_used) == (start, 0)
    log.offer(records(start, start + 1))
    assert offsets(log, start) == [start]


def test_records_are_returned_only_if_the_topic_id_is_unchanged(
    log: KafkaLog, topic: Topic
) -> None:
    topic.is_anew = True
    with pytest.raises(TopicReplacedError):
        log.read(3, 100, ROOM)
    assert topic.asked == 1


def test_an_empty_log_does_not_look_up_the_topic_id(log: KafkaLog, topic: Topic) -> None:
    assert offsets(log, 5) == []
    assert topic.asked == 0


def test_a_failure_is_raised_unless_the_topic_was_recreated(log: KafkaLog, topic: Topic) -> None:
    failure = OffsetOutOfRangeError("3 to 7 are lost")
    log.fail(failure)
    log.offer(records(5, 6))
    assert (log.failed, log.bytes_used) == (True, 0)
    with pytest.raises(OffsetOutOfRangeError) as caught:
        log.read(3, 100, ROOM)
    assert caught.value is failure
    topic.is_anew = True
    with pytest.raises(TopicReplacedError):
        log.read(3, 100, ROOM)
