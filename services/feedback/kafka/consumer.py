"""Group consumer of a topic in its own thread: assignment, fetching, pausing.

The group's offsets decide no position. Positions come from the ledger through each log's seek
offset; the group's offsets are committed late, for monitoring of the lag. A revoked or lost
partition is dropped with its fetched records, and no offset is committed for it.
"""

import logging
import threading
import time
from collections.abc import Collection

from kafka import KafkaConsumer, TopicPartition
from kafka.consumer.subscription_state import ConsumerRebalanceListener
from kafka.errors import KafkaError, LogTruncationError
from kafka.errors import OffsetOutOfRangeError as FetchOutOfRangeError
from kafka.structs import OffsetAndMetadata

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.kafka.cluster import MAX_MESSAGE_BYTES, REQUEST_MS, Cluster
from services.feedback.kafka.partition_sinks import KafkaLog, PartitionSinks
from services.feedback.kafka.record import RecordSigner, record_of
from services.feedback.spool.log import LogError, OffsetOutOfRangeError

log = logging.getLogger(__name__)

# While a broker is frozen the client's poll spins until its time-out, on two cores. The time-out is
# therefore short, with a pause after each poll.
POLL_MS = 20
REST_SECONDS = 0.08
# The client discards a rebalance that ends between two polls and asks the whole group for another.
# During a rebalance the poll therefore waits (without spinning), and no pause follows.
REBALANCE_POLL_MS = 1_000
RECORDS_PER_POLL = 2_000
FETCH_BYTES = 8 * 1024 * 1024
COMMIT_SECONDS = 5.0
RETRY_SECONDS = 1.0


class TopicConsumer:
    """Consumer of a topic; `run` blocks in a thread, `attach` connects a partition to its log."""

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        stream: str,
        group: str,
        session_seconds: float,
        max_buffered_bytes: int,
        owner: PartitionSinks,
        signer: RecordSigner,
    ) -> None:
        self._cluster = cluster
        self._topic = topic
        self._stream = stream
        self._group, self._session_seconds = group, session_seconds
        self._max_buffered_bytes = max_buffered_bytes
        self._owner = owner
        self._signer = signer
        self._mutex = threading.Lock()
        self._logs: dict[int, KafkaLog] = {}
        self._topic_id = ""
        self._offsets: dict[int, int] = {}
        self._offsets_at = 0.0
        self._full = False
        self._rebalancing = True
        self._stopped, self._restart = threading.Event(), threading.Event()

    def attach(self, kafka_log: KafkaLog) -> None:
        """Fill a log from its seek offset.

        A client may buffer fetched records and return them after a seek. A client therefore serves
        a single topic id, requested after the client was built. A log of another id needs a new
        client and a new assignment.
        """
        with self._mutex:
            if self._topic_id in ("", kafka_log.topic_id):
                self._topic_id = kafka_log.topic_id
                self._logs[kafka_log.partition] = kafka_log
            else:
                self._restart.set()

    def restart(self) -> None:
        """Start again with a new client, after the topic was recreated."""
        self._restart.set()

    def stop(self) -> None:
        """Let `run` end and leave the group."""
        self._stopped.set()
        self._restart.set()

    def run(self) -> None:
        """Consume and rebuild failed clients until `stop`."""
        while not self._stopped.is_set():
            try:
                session_ms = int(self._session_seconds * 1_000)
                consumer = self._cluster.build(
                    KafkaConsumer,
                    group_id=self._group,
                    enable_auto_commit=False,
                    # Neither earliest nor latest: a missing offset is an error and never a silent
                    # jump.
                    auto_offset_reset="none",
                    isolation_level="read_committed",
                    allow_auto_create_topics=False,
                    session_timeout_ms=session_ms,
                    heartbeat_interval_ms=session_ms // 4,
                    max_partition_fetch_bytes=MAX_MESSAGE_BYTES,
                    fetch_max_bytes=FETCH_BYTES,
                    metadata_max_age_ms=30_000,
                )
            except (KafkaError, OSError) as error:
                self._wait_after("kafka is unavailable", error)
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
        """Forward an assignment by the group, which ends a rebalance."""
        self._rebalancing = False
        self._owner.on_assigned(partitions)

    def drop(self, partitions: Collection[int]) -> None:
        """Forward a revocation by the group or a loss; both begin a rebalance."""
        self._rebalancing = True
        with self._mutex:
            for partition in partitions:
                self._logs.pop(partition, None)
                self._offsets.pop(partition, None)
        self._owner.on_lost(partitions)

    def _poll_once(self, consumer: KafkaConsumer) -> None:
        self._update_positions(consumer)
        timeout_ms = REBALANCE_POLL_MS if self._rebalancing else POLL_MS
        try:
            fetched = consumer.poll(timeout_ms=timeout_ms, max_records=RECORDS_PER_POLL)
        except FetchOutOfRangeError as error:
            self._out_of_range(consumer, error.args[0])
            return
        except LogTruncationError as error:
            for topic_partition in error.divergent_offsets:
                text = (
                    f"{self._topic} partition {topic_partition.partition} was truncated "
                    "below the last offset read"
                )
                self._fail_partition(
                    consumer,
                    topic_partition,
                    OffsetOutOfRangeError(text, field="offset", reason="DAMAGED"),
                )
            return
        except (KafkaError, OSError) as error:
            # No records were returned, so none are skipped: the next poll fetches the same
            # position.
            self._wait_after("fetch failed", error)
            return
        if not fetched and not self._rebalancing:
            self._restart.wait(REST_SECONDS)
        for topic_partition, messages in fetched.items():
            if kafka_log := self._log(topic_partition.partition):
                kafka_log.offer([record_of(message, self._signer) for message in messages])

    def _update_positions(self, consumer: KafkaConsumer) -> None:
        """Seek as requested, pause while too much is buffered, and commit offsets periodically."""
        with self._mutex:
            logs = dict(self._logs)
        buffered = sum(kafka_log.bytes_used for kafka_log in logs.values())
        limit = self._max_buffered_bytes
        # Hysteresis: pause at the limit and resume at half, to avoid switching with every poll.
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
            # Asynchronous, because the group's offsets serve monitoring only.
            self._offsets_at = time.monotonic()
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
                return  # Kafka is unavailable again; the next poll repeats the error.
            problem = (
                f"offsets {position} to {start} are lost"
                if position < start
                else f"the log ends at {end}, before the ledger's end"
            )
            text = (
                f"offset {position} of {self._topic} partition {topic_partition.partition} "
                f"is out of range: {problem}"
            )
            metrics.LOST_OFFSETS.labels(self._stream, str(topic_partition.partition)).set(
                max(0, start - position)
            )
            failure = OffsetOutOfRangeError(text, field="offset", limit=f"{start} to {end}")
            self._fail_partition(consumer, topic_partition, failure)

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
    """Listener on the client's I/O thread, which also sends the heartbeats."""

    def __init__(self, owner: TopicConsumer, consumer: KafkaConsumer) -> None:
        self._owner, self._consumer = owner, consumer

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        for topic_partition in assigned:
            # Any position stops the client from requesting one. The pause holds until the ledger's
            # position is known.
            self._consumer.seek(topic_partition, 0)
            self._consumer.pause(topic_partition)
        self._owner.take([topic_partition.partition for topic_partition in assigned])

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        # Called before a JoinGroup request. If changed metadata cause the rebalance, the client
        # forgets the rebalance once the leader has assigned partitions; a poll that times out then
        # leaves the consumer without partitions for good. The flag holds until the join ends, as in
        # the Java client (KAFKA-9815). The client has no public method for the flag.
        self._consumer._coordinator.request_rejoin()
        self._owner.drop([topic_partition.partition for topic_partition in revoked])

    def on_partitions_lost(self, revoked: Collection[TopicPartition]) -> None:
        self._owner.drop([topic_partition.partition for topic_partition in revoked])
