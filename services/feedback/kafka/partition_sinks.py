"""Sinks of the partitions assigned to this process.

A sink starts with the assignment of its partition and stops with the revocation. The ledger fences:
a sink still flushing after a revocation no longer has the newest lease. A partition with missing
records stops permanently and logs an error; the others continue.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.kafka.partition_log import KafkaLog
from services.feedback.sink_loop import (
    FAILURES,
    FIRST_RETRY_SECONDS,
    LAST_RETRY_SECONDS,
    Flusher,
    SinkLoop,
)
from services.feedback.spool.log import LogError, TopicReplacedError

log = logging.getLogger(__name__)

ResultT = TypeVar("ResultT")


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

    `on_assigned` and `on_lost` are called on the consumer's threads. Blocking calls run in
    `executor`.
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
        """Start sinks of newly assigned partitions."""
        self._loop.call_soon_threadsafe(self._assign, list(partitions))

    def on_lost(self, partitions: Collection[int]) -> None:
        """Stop sinks of lost partitions."""
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
