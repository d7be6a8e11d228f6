"""Publisher for a topic with kafka-python: acks=all, no idempotence, one request in flight.

This client's idempotent producer hangs permanently after an outage longer than its delivery
timeout, its `close()` blocks while records wait, and its time-outs apply per batch. The publisher
therefore has its own deadlines and discards a silent producer.
"""

import contextlib
import logging
import time
from collections.abc import Sequence

from kafka import KafkaProducer
from kafka.errors import KafkaError

from services.chassis.telemetry import fields
from services.feedback import metrics
from services.feedback.kafka.cluster import MAX_MESSAGE_BYTES, REQUEST_MS, Cluster
from services.feedback.kafka.record import RecordSigner, headers_of
from services.feedback.kafka.relay import PublishError
from services.feedback.kafka.topic import TopicSettings, WeakTopicError, require_durable
from services.feedback.spool.log import Record

log = logging.getLogger(__name__)

CLOSE_SECONDS = 2.0


class KafkaPublisher:
    """Publisher for one topic, used by a single thread.

    The producer is built on demand and again after a failure. Before the first build the topic must
    be as durable as the settings; until then all records stay in the write-ahead log.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        watchdog_seconds: float,
        required: TopicSettings,
        signer: RecordSigner,
    ) -> None:
        self._cluster, self._topic, self._watchdog_seconds = cluster, topic, watchdog_seconds
        self._required, self._is_verified = required, False
        self._signer = signer
        self._producer: KafkaProducer | None = None

    def publish(self, records: Sequence[Record]) -> None:
        """Implement `Publisher.publish`.

        The call ends at the latest when no acknowledgement has arrived for the watchdog's seconds
        after the build.

        Raises:
            PublishError: The broker has not acknowledged all records, or the topic is too weak.
        """
        try:
            if not self._is_verified:
                require_durable(self._cluster, self._topic, self._required)
                self._is_verified = True
            if (producer := self._producer) is None:
                milliseconds = int(self._watchdog_seconds * 1_000)
                producer = self._producer = self._cluster.build(
                    KafkaProducer,
                    acks="all",
                    enable_idempotence=False,
                    max_in_flight_requests_per_connection=1,
                    allow_auto_create_topics=False,
                    max_request_size=MAX_MESSAGE_BYTES,
                    request_timeout_ms=min(REQUEST_MS, milliseconds),
                    delivery_timeout_ms=milliseconds,
                    max_block_ms=milliseconds,
                )
                metrics.PRODUCER_BUILDS.labels(self._topic).inc()
                log.info("producer built", extra=fields(topic=self._topic))
            # Send all records before waiting; each acknowledgement gets the watchdog's full time.
            futures = [
                producer.send(
                    self._topic,
                    key=record.entry.key.encode(),
                    value=record.entry.payload,
                    headers=headers_of(record.entry, self._signer),
                    timestamp_ms=record.append_us // 1_000,
                )
                for record in records
            ]
            for future in futures:
                future.get(timeout=self._watchdog_seconds)
        except (KafkaError, OSError) as error:
            self.close()
            # Only the type, since the client's text may quote a record.
            raise PublishError(type(error).__name__) from error
        except WeakTopicError as error:
            raise PublishError(str(error)) from error

    def close(self) -> None:
        """Discard the producer, including a producer that hangs.

        No records are in flight between two calls of `publish`.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        started = time.monotonic()
        # `close()` flushes first and may never return, so the private method is the only way. The
        # version is pinned, and a test covers the method.
        producer._sender.force_close()
        producer._sender.join(CLOSE_SECONDS)
        with contextlib.suppress(KafkaError):
            producer.close(timeout=0)
        log.info(
            "producer closed",
            extra=fields(topic=self._topic, seconds=round(time.monotonic() - started, 1)),
        )
