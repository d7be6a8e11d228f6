"""Sinks of assigned partitions: start, stop, and permanent failure."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import pytest
from prometheus_client import REGISTRY

from services.feedback.kafka.partition_sinks import KafkaLog, PartitionSinks
from services.feedback.lake.ledger import Segment
from services.feedback.spool.log import (
    LogUnavailableError,
    OffsetOutOfRangeError,
    Record,
    TopicReplacedError,
    frame_bytes,
)
from services.feedback.store.database import LedgerUnavailableError
from tests.services.feedback.samples import entry


class Topic:
    """Fake lookup of the topic id."""

    def __init__(self) -> None:
        self.topic_id, self.silences = "first", 0

    def current(self) -> str:
        if self.silences:
            self.silences -= 1
            raise LogUnavailableError("away")
        return self.topic_id

    def require(self, topic_id: str) -> None:
        if topic_id != self.topic_id:
            raise TopicReplacedError(topic_id)


class Source:
    """Fake consumer that records attached logs."""

    def __init__(self) -> None:
        self.logs: list[KafkaLog] = []
        self.restarts = 0

    def attach(self, kafka_log: KafkaLog) -> None:
        self.logs.append(kafka_log)

    def restart(self) -> None:
        self.restarts += 1

    def fetch(self, log: KafkaLog, end: int) -> None:
        start = log.take_seek_offset() or 0
        log.offer([Record(offset, 1, entry(f"r{offset}")) for offset in range(start, end)])


class FakeSink:
    """Fake sink that sinks all records of its log."""

    def __init__(self, log: KafkaLog, failures: int = 0) -> None:
        self._log, self._failures = log, failures
        self.position, self.assigns = 0, 0

    def assign(self) -> None:
        self.assigns += 1
        if self.assigns <= self._failures:
            raise LedgerUnavailableError("away")
        self._log.read(self.position, 1, 1)

    def flush(self) -> Segment | None:
        records = self._log.read(self.position, 100, 1 << 20)
        start, self.position = self.position, self.position + len(records)
        self._log.trim(self.position)
        return Segment(
            "feedback", "t", 0, 1, start, self.position, "key", "hash", len(records), 0, 0, 1
        )


class SinksUnderTest:
    """Partition sinks with all fakes."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self.topic, self.source, self.made = Topic(), Source(), list[FakeSink]()
        self.assign_failures = 0
        self.sinks = PartitionSinks("feedback", self.topic, self._make, executor, 100, 0.01)

    def _make(self, log: KafkaLog) -> FakeSink:
        self.made.append(FakeSink(log, self.assign_failures))
        return self.made[-1]


@asynccontextmanager
async def running() -> AsyncIterator[SinksUnderTest]:
    with ThreadPoolExecutor(2) as executor:
        sinks_under_test = SinksUnderTest(executor)
        task = asyncio.ensure_future(sinks_under_test.sinks.run(sinks_under_test.source))
        yield sinks_under_test
        sinks_under_test.sinks.stop()
        async with asyncio.timeout(20):
            await task


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"thumbwheel_feedback_{name}", {"stream": "feedback"} | labels)


async def test_an_assigned_partition_is_filled_and_sunk() -> None:
    async with running() as sinks_under_test:
        sinks_under_test.sinks.on_assigned([4, 5])
        await until(lambda: len(sinks_under_test.source.logs) == 2)
        assert sorted((log.topic_id, log.partition) for log in sinks_under_test.source.logs) == [
            ("first", 4),
            ("first", 5),
        ]
        assert gauge("partitions") == 2
        log = sinks_under_test.source.logs[0]
        sinks_under_test.source.fetch(log, 3)
        await until(lambda: log.sunk == 3)
    assert gauge("partitions") == 0


async def test_a_lost_partition_stops_and_gets_a_new_log_when_assigned_again() -> None:
    async with running() as sinks_under_test:
        sinks_under_test.sinks.on_assigned([0])
        await until(lambda: sinks_under_test.source.logs)
        sinks_under_test.sinks.on_lost([0])
        await until(lambda: gauge("partitions") == 0)
        sinks_under_test.source.fetch(sinks_under_test.source.logs[0], 3)
        sinks_under_test.sinks.on_assigned([0])
        await until(lambda: len(sinks_under_test.source.logs) == 2)
        assert (sinks_under_test.source.logs[0].sunk, sinks_under_test.made[0].position) == (0, 0)


async def test_kafka_and_the_ledger_may_be_unavailable_at_first() -> None:
    async with running() as sinks_under_test:
        sinks_under_test.topic.silences, sinks_under_test.assign_failures = 1, 1
        sinks_under_test.sinks.on_assigned([0])
        await until(lambda: sinks_under_test.source.logs)
        assert sinks_under_test.made[0].assigns == 2


async def test_a_partition_lost_during_an_outage_of_kafka_is_released() -> None:
    async with running() as sinks_under_test:
        sinks_under_test.topic.silences = 1_000
        sinks_under_test.sinks.on_assigned([0])
        await until(lambda: sinks_under_test.topic.silences < 1_000)
        sinks_under_test.sinks.on_lost([0])
    assert sinks_under_test.made == []


async def test_a_recreated_topic_restarts_the_source() -> None:
    async with running() as sinks_under_test:
        sinks_under_test.sinks.on_assigned([0])
        await until(lambda: sinks_under_test.source.logs)
        sinks_under_test.topic.topic_id = "second"
        sinks_under_test.source.fetch(sinks_under_test.source.logs[0], 3)
        await until(lambda: sinks_under_test.source.restarts == 1)
        assert sinks_under_test.made[0].position == 0


async def test_a_partition_with_missing_records_stops_alone_and_logs_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as sinks_under_test:
        sinks_under_test.sinks.on_assigned([0, 1])
        await until(lambda: len(sinks_under_test.source.logs) == 2)
        lost, sound = sorted(sinks_under_test.source.logs, key=lambda log: log.partition)
        sinks_under_test.source.fetch(lost, 2)
        await until(lambda: lost.sunk == 2)
        failure = OffsetOutOfRangeError("2 to 9 are lost")
        lost.fail(failure)
        sinks_under_test.source.fetch(sound, 1)
        await until(lambda: gauge("stopped_partitions", partition="0") == 1)
        await until(lambda: sound.sunk == 1)
        assert gauge("stopped_partitions", partition="1") == 0
        assert [
            record.fields["why"]
            for record in caplog.records
            if record.message == "partition stopped"
        ] == [failure.text]


ROOM = 1 << 20


class RecreatableTopic:
    """RecreatableTopic with an id until its recreation."""

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
def topic() -> RecreatableTopic:
    return RecreatableTopic()


@pytest.fixture
def log(topic: RecreatableTopic) -> KafkaLog:
    """Return a log with records 3 and 4, after its seek."""
    log = KafkaLog("topic", 2, topic.require)
    assert offsets(log, 3) == []
    assert log.take_seek_offset() == 3
    log.offer(records(3, 5))
    return log


def test_the_first_read_requests_a_seek(topic: RecreatableTopic) -> None:
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
    log: KafkaLog, topic: RecreatableTopic
) -> None:
    topic.is_anew = True
    with pytest.raises(TopicReplacedError):
        log.read(3, 100, ROOM)
    assert topic.asked == 1


def test_an_empty_log_does_not_look_up_the_topic_id(log: KafkaLog, topic: RecreatableTopic) -> None:
    assert offsets(log, 5) == []
    assert topic.asked == 0


def test_a_failure_is_raised_unless_the_topic_was_recreated(
    log: KafkaLog, topic: RecreatableTopic
) -> None:
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
