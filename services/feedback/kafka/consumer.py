"""Consumes a topic in a group, in a thread of its own: who has which partition, what was fetched,
when to pause.

The group's offsets decide nothing: positions come from the ledger through each log's wishes, and
offsets are committed late, for those who watch the lag. A partition that is revoked or lost is
dropped with what was fetched, and nothing is committed for it.
"""

import logging
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import KafkaError, LogTruncationError
from kafka.errors import OffsetOutOfRangeError as FetchOutOfRangeError
from kafka.structs import OffsetAndMetadata

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.kafka.client import build
from services.feedback.kafka.cluster import MAX_MESSAGE_BYTES, REQUEST_MS, Cluster
from services.feedback.kafka.partition_log import KafkaLog
from services.feedback.kafka.record import record_of
from services.feedback.spool.log import LogError, OffsetOutOfRangeError

log = logging.getLogger(__name__)

# While a broker is frozen the client's poll spins until its time is over, on two cores: so it gets
# little, and we wait ourselves.
POLL_MS = 20
REST_SECONDS = 0.08
RECORDS_PER_POLL = 2_000
FETCH_BYTES = 8 * 1024 * 1024
COMMIT_SECONDS = 5.0
RETRY_SECONDS = 1.0


@dataclass(frozen=True)
class Membership:
    """How this process takes part in the group."""

    group: str
    session_seconds: float
    max_buffered_bytes: int


class PartitionOwner(Protocol):
    """Who reads the partitions. Called on the client's own threads: must be quick, and ask nobody."""

    def on_assigned(self, partitions: Collection[int]) -> None:
        """These are this process's now; each waits, paused, for `attach`."""

    def on_lost(self, partitions: Collection[int]) -> None:
        """These are not any more: drop what is buffered, commit nothing."""


class TopicConsumer:
    """`run` in a thread. `attach` gives a partition that was taken the log to fill."""

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        stream: str,
        membership: Membership,
        owner: PartitionOwner,
    ) -> None:
        self._cluster, self._topic, self._stream, self._membership = (
            cluster,
            topic,
            stream,
            membership,
        )
        self._owner = owner
        self._mutex = threading.Lock()
        self._logs: dict[int, KafkaLog] = {}
        self._topic_id = ""
        self._offsets: dict[int, int] = {}
        self._offsets_at = 0.0
        self._full = False
        self._stopped, self._restart = threading.Event(), threading.Event()

    def attach(self, kafka_log: KafkaLog) -> None:
        """Fill this log from where it wishes.

        A client may hold fetched records back and hand them out after a seek. So one client serves
        one topic id, which was asked for after it was built: a log of another id needs a new
        client, and the partitions are taken again.
        """
        with self._mutex:
            if self._topic_id in ("", kafka_log.topic_id):
                self._topic_id = kafka_log.topic_id
                self._logs[kafka_log.partition] = kafka_log
            else:
                self._restart.set()

    def restart(self) -> None:
        """The topic was made anew: begin again with a new client."""
        self._restart.set()

    def stop(self) -> None:
        """Let `run` end: it leaves the group."""
        self._stopped.set()
        self._restart.set()

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopped.is_set():
            try:
                consumer = self._build_consumer()
            except (KafkaError, OSError) as error:
                self._wait_after("kafka is away", error)
                continue
            try:
                consumer.subscribe([self._topic], listener=_Listener(self, consumer))
                while not self._restart.is_set():
                    self._poll_once(consumer)
            finally:
                self._restart.clear()
                self.drop(list(self._logs))
                self._topic_id = ""
                consumer.close(autocommit=False, timeout_ms=REQUEST_MS)

    def take(self, partitions: Collection[int]) -> None:
        """The group gave these."""
        self._owner.on_assigned(partitions)

    def drop(self, partitions: Collection[int]) -> None:
        """The group took these back, or they were lost."""
        with self._mutex:
            for partition in partitions:
                self._logs.pop(partition, None)
                self._offsets.pop(partition, None)
        self._owner.on_lost(partitions)

    def _build_consumer(self) -> KafkaConsumer:
        session_ms = int(self._membership.session_seconds * 1_000)
        return build(
            KafkaConsumer,
            **self._cluster.options(),
            group_id=self._membership.group,
            enable_auto_commit=False,
            # Neither earliest nor latest: an offset that is not there is an error and never a jump.
            auto_offset_reset="none",
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // 4,
            max_partition_fetch_bytes=MAX_MESSAGE_BYTES,
            fetch_max_bytes=FETCH_BYTES,
            metadata_max_age_ms=30_000,
        )

    def _poll_once(self, consumer: KafkaConsumer) -> None:
        self._update_positions(consumer)
        try:
            fetched = consumer.poll(timeout_ms=POLL_MS, max_records=RECORDS_PER_POLL)
        except FetchOutOfRangeError as error:
            self._out_of_range(consumer, error.args[0])
            return
        except LogTruncationError as error:
            self._truncated(consumer, error.divergent_offsets)
            return
        except (KafkaError, OSError) as error:
            # Nothing was handed out, so nothing is skipped: the same position is fetched again.
            self._wait_after("fetch failed", error)
            return
        if not fetched:
            self._restart.wait(REST_SECONDS)
        for topic_partition, messages in fetched.items():
            if kafka_log := self._log(topic_partition.partition):
                kafka_log.offer([record_of(message) for message in messages])

    def _update_positions(self, consumer: KafkaConsumer) -> None:
        """Seek where a log wishes; pause all while too much waits; commit now and then."""
        with self._mutex:
            logs = dict(self._logs)
        buffered = sum(kafka_log.bytes_used for kafka_log in logs.values())
        limit = self._membership.max_buffered_bytes
        self._full = buffered >= limit if not self._full else buffered > limit // 2
        metrics.CONSUMER_BUFFERED_BYTES.labels(self._stream).set(buffered)
        metrics.CONSUMER_PAUSED.labels(self._stream).set(self._full)
        for topic_partition in consumer.assignment():
            kafka_log = logs.get(topic_partition.partition)
            if kafka_log is None or kafka_log.failed:
                continue
            if (seek_offset := kafka_log.take_seek_offset()) is not None:
                consumer.seek(topic_partition, seek_offset)
            paused = topic_partition in consumer.paused()
            if self._full and not paused:
                consumer.pause(topic_partition)
            elif not self._full and paused:
                consumer.resume(topic_partition)
            if (end := consumer.highwater(topic_partition)) is not None:
                lag = max(0, end - kafka_log.sunk)
                metrics.CONSUMER_LAG_EVENTS.labels(
                    self._stream, str(topic_partition.partition)
                ).set(lag)
        if time.monotonic() - self._offsets_at >= COMMIT_SECONDS:
            self._offsets_at = time.monotonic()
            self._commit(consumer, logs)

    def _commit(self, consumer: KafkaConsumer, logs: dict[int, KafkaLog]) -> None:
        moved = {
            topic_partition: logs[topic_partition.partition].sunk
            for topic_partition in consumer.assignment()
            if topic_partition.partition in logs
            and logs[topic_partition.partition].sunk
            > self._offsets.get(topic_partition.partition, 0)
        }
        if moved:
            consumer.commit_async(
                {
                    topic_partition: OffsetAndMetadata(sunk, "", -1)
                    for topic_partition, sunk in moved.items()
                }
            )
            self._offsets.update(
                {topic_partition.partition: sunk for topic_partition, sunk in moved.items()}
            )

    def _out_of_range(self, consumer: KafkaConsumer, positions: dict[TopicPartition, int]) -> None:
        for topic_partition, position in positions.items():
            try:
                (start,) = consumer.beginning_offsets([topic_partition]).values()
                (end,) = consumer.end_offsets([topic_partition]).values()
            except (KafkaError, OSError):
                return  # Kafka is away again; the next poll says the same.
            what = (
                f"{position} to {start} are lost"
                if position < start
                else f"the log ends at {end}, before the ledger"
            )
            text = f"offset {position} of {self._topic} partition {topic_partition.partition} is not there: {what}"
            metrics.LOST_OFFSETS.labels(self._stream, str(topic_partition.partition)).set(
                max(0, start - position)
            )
            failure = OffsetOutOfRangeError(text, field="offset", limit=f"{start} to {end}")
            self._fail_partition(consumer, topic_partition, failure)

    def _truncated(self, consumer: KafkaConsumer, diverged: Collection[TopicPartition]) -> None:
        for topic_partition in diverged:
            text = f"{self._topic} partition {topic_partition.partition} was cut off behind what was read"
            self._fail_partition(
                consumer,
                topic_partition,
                OffsetOutOfRangeError(text, field="offset", reason="DAMAGED"),
            )

    def _fail_partition(
        self, consumer: KafkaConsumer, topic_partition: TopicPartition, failure: LogError
    ) -> None:
        consumer.pause(topic_partition)
        if kafka_log := self._log(topic_partition.partition):
            kafka_log.fail(failure)

    def _log(self, partition: int) -> KafkaLog | None:
        with self._mutex:
            return self._logs.get(partition)

    def _wait_after(self, phrase: str, error: Exception) -> None:
        metrics.CONSUMER_FAILURES.labels(self._stream, type(error).__name__).inc()
        log.warning(phrase, extra=fields(stream=self._stream, error=type(error).__name__))
        self._stopped.wait(RETRY_SECONDS)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Called on the client's I/O thread, which also sends the heartbeats."""

    def __init__(self, owner: TopicConsumer, consumer: KafkaConsumer) -> None:
        self._owner, self._consumer = owner, consumer

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for topic_partition in assigned:
            # A position of any kind, so that the client asks nobody for one, and a pause until the
            # ledger has said where.
            self._consumer.seek(topic_partition, 0)
            self._consumer.pause(topic_partition)
        self._owner.take([topic_partition.partition for topic_partition in assigned])

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._owner.drop([topic_partition.partition for topic_partition in revoked])

    def on_partitions_lost(self, revoked: Collection[TopicPartition]) -> None:
        self._owner.drop([topic_partition.partition for topic_partition in revoked])
