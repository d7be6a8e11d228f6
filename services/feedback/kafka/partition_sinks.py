"""Logs and sinks of the partitions assigned to this process.

A log is filled by the consumer's thread and read by a sink. The log buffers fetched records until
they are sunk. A sink that needs another offset than the next one (after a new lease or a commit by
another writer) sets a seek offset, and the consumer seeks there.

A sink starts with the assignment of its partition and stops with the revocation. The ledger fences:
a sink still flushing after a revocation no longer has the newest lease. A partition with missing
records stops permanently and logs an error; the others continue.
"""

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.sink_loop import (
    FAILURES,
    FIRST_RETRY_SECONDS,
    LAST_RETRY_SECONDS,
    Flusher,
    SinkLoop,
)
from services.feedback.spool.log import LogError, Record, TopicReplacedError, frame_bytes

log = logging.getLogger(__name__)


ResultT = TypeVar("ResultT")


class KafkaLog:
    """Buffer of one partition between consumer and sink.

    Args:
        require_same: Raises TopicReplacedError if the topic was recreated, or LogUnavailableError
            if Kafka does not answer.
    """

    def __init__(self, topic_id: str, partition: int, require_same: Callable[[], None]) -> None:
        self.topic_id, self.partition = topic_id, partition
        self._require_same = require_same
        self._mutex = threading.Lock()
        self._records: deque[Record] = deque()
        self._start = -1  # no position: the first read requests a seek
        self._bytes = 0
        self._seek_offset: int | None = None
        self._failure: LogError | None = None
        self._sunk = 0

    @property
    def end_offset(self) -> int:
        """Offset after the last buffered record.

        After a failure the offset is one higher, so that a read happens and raises the failure.
        """
        with self._mutex:
            if self._failure:
                return self._start + 1
            return self._records[-1].offset + 1 if self._records else self._start

    @property
    def bytes_used(self) -> int:
        """Approximate size of the buffered records in bytes, measured as in the spool."""
        return self._bytes

    @property
    def failed(self) -> bool:
        """True if the partition has failed and is no longer fetched."""
        return self._failure is not None

    @property
    def sunk(self) -> int:
        """Offset below which all records are in the ledger."""
        return self._sunk

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        """Implement `Log.read`; return no records while a seek is pending."""
        with self._mutex:
            failure, found, room = self._failure, list[Record](), max_bytes
            end = self._records[-1].offset + 1 if self._records else self._start
            if not failure and self._start <= start <= end:
                self._drop(start)
                for record in self._records:
                    if len(found) >= max_records or room <= 0:
                        break
                    found.append(record)
                    room -= frame_bytes(record.entry)
            elif not failure:
                self._clear()
                # Records in flight belong to the old position; `offer` drops them until the
                # consumer has sought.
                self._start = self._seek_offset = start
        # Verify the topic id after fetching: if the topic still has the id, the fetched records
        # belong to that topic.
        if found or failure:
            self._require_same()
        if failure:
            raise failure
        return found

    def trim(self, before: int) -> None:
        """Drop the records below an offset, since they are sunk."""
        with self._mutex:
            self._sunk = before
            self._drop(before)

    def offer(self, records: Sequence[Record]) -> None:
        """Append fetched records.

        While a seek is pending the records belong to another position and are dropped.
        """
        with self._mutex:
            if self._start >= 0 and self._seek_offset is None and self._failure is None:
                self._records.extend(records)
                self._bytes += sum(frame_bytes(record.entry) for record in records)

    def take_seek_offset(self) -> int | None:
        """Return and clear the offset where the consumer must seek."""
        with self._mutex:
            seek_offset, self._seek_offset = self._seek_offset, None
            return seek_offset

    def fail(self, failure: LogError) -> None:
        """Stop the log with a failure, raised by the next read."""
        with self._mutex:
            self._failure = failure
            self._clear()

    def _drop(self, before: int) -> None:
        while self._records and self._records[0].offset < before:
            self._bytes -= frame_bytes(self._records.popleft().entry)
        self._start = max(self._start, before)

    def _clear(self) -> None:
        self._records.clear()
        self._bytes = 0


class Topic(Protocol):
    """Topic behind a name."""

    def current(self) -> str:
        """Return the current topic id.

        Raises:
            LogUnavailableError: Kafka does not answer.
        """

    def require(self, topic_id: str) -> None:
        """Check the current topic id.

        Raises:
            TopicReplacedError: The topic was recreated.
            LogUnavailableError: Kafka does not answer.
        """


class Source(Protocol):
    """Source of records for partition logs."""

    def attach(self, kafka_log: KafkaLog) -> None:
        """Start to fill a log."""

    def restart(self) -> None:
        """Start again with a new client, after the topic was recreated."""


@dataclass
class _OwnedPartition:
    """Partition between assignment and loss."""

    released: asyncio.Event = field(default_factory=asyncio.Event)
    sink_loop: SinkLoop | None = None

    def release(self) -> None:
        self.released.set()
        if self.sink_loop:
            self.sink_loop.stop()


class PartitionSinks:
    """Sinks of assigned partitions.

    `on_assigned` and `on_lost` are called on the consumer's threads and do not block. Blocking
    calls run in `executor`.
    """

    def __init__(
        self,
        stream: str,
        topic: Topic,
        make_sink: Callable[[KafkaLog], Flusher],
        executor: Executor,
        flush_rows: int,
        flush_seconds: float,
    ) -> None:
        self._stream = stream
        self._topic = topic
        self._make_sink = make_sink
        self._executor = executor
        self._flush_rows, self._flush_seconds = flush_rows, flush_seconds
        self._loop = asyncio.get_running_loop()
        self._owned: dict[int, _OwnedPartition] = {}
        self._assigned: asyncio.Queue[int | None] = asyncio.Queue()

    def on_assigned(self, partitions: Collection[int]) -> None:
        """Start sinks of newly assigned partitions; each stays paused until `Source.attach`."""
        self._loop.call_soon_threadsafe(self._assign, list(partitions))

    def on_lost(self, partitions: Collection[int]) -> None:
        """Stop sinks of lost partitions: drop buffered records, commit no offset."""
        self._loop.call_soon_threadsafe(self._release, list(partitions))

    async def run(self, source: Source) -> None:
        """Run sinks until `stop` and the end of the last flush."""
        async with asyncio.TaskGroup() as tasks:
            while (partition := await self._assigned.get()) is not None:
                tasks.create_task(self._run_partition(partition, self._owned[partition], source))
            self._release(list(self._owned))

    def stop(self) -> None:
        """Let `run` end after the current flushes."""
        self._assigned.put_nowait(None)

    def _assign(self, partitions: Collection[int]) -> None:
        self._release(partitions)
        for partition in partitions:
            self._owned[partition] = _OwnedPartition()
            self._assigned.put_nowait(partition)

    def _release(self, partitions: Collection[int]) -> None:
        for partition in partitions:
            if owned := self._owned.pop(partition, None):
                owned.release()
        metrics.PARTITIONS.labels(self._stream).set(len(self._owned))

    async def _run_partition(self, partition: int, owned: _OwnedPartition, source: Source) -> None:
        topic_id = await self._retry_until_released(owned, self._topic.current)
        if topic_id is None:
            return
        kafka_log = KafkaLog(topic_id, partition, lambda: self._topic.require(topic_id))
        sink = self._make_sink(kafka_log)
        await self._retry_until_released(owned, sink.assign)
        if owned.released.is_set():
            return
        owned.sink_loop = SinkLoop(
            self._stream,
            kafka_log,
            sink,
            self._flush_rows,
            self._flush_seconds,
            executor=self._executor,
        )
        metrics.PARTITIONS.labels(self._stream).set(len(self._owned))
        metrics.STOPPED.labels(self._stream, str(partition)).set(0)
        # Attach last: from here on records arrive, and the sink must be ready.
        source.attach(kafka_log)
        try:
            await owned.sink_loop.run()
        except TopicReplacedError as error:
            log.warning(
                "topic was recreated",
                extra=fields(stream=self._stream, partition=partition, why=str(error)),
            )
            source.restart()
        except LogError as error:
            metrics.STOPPED.labels(self._stream, str(partition)).set(1)
            log.error(
                "partition stopped",
                extra=fields(stream=self._stream, partition=partition, why=str(error)),
            )

    async def _retry_until_released(
        self, owned: _OwnedPartition, call: Callable[[], ResultT]
    ) -> ResultT | None:
        """Repeat a call until success; return None if the partition is lost meanwhile."""
        wait_seconds = FIRST_RETRY_SECONDS
        while not owned.released.is_set():
            try:
                return await self._loop.run_in_executor(self._executor, call)
            except FAILURES as error:
                log.warning(
                    "partition not ready, retrying",
                    extra=fields(stream=self._stream, error=type(error).__name__, why=str(error)),
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(owned.released.wait(), wait_seconds)
            wait_seconds = min(2 * wait_seconds, LAST_RETRY_SECONDS)
        return None
