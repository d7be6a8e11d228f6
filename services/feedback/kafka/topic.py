"""Current topic id behind a topic name.

A topic that was deleted and recreated has the same name but another id, and its offsets start at 0.
The client fetches by name. Readers therefore verify the id after each read and before each commit
(`NamedTopic.require`).
"""

import threading
from contextlib import closing

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from services.feedback.kafka.client import build
from services.feedback.kafka.cluster import REQUEST_MS, Cluster
from services.feedback.spool.log import LogUnavailableError, LogView, TopicReplacedError


class NamedTopic:
    """Lookup of the topic id; thread-safe, and every call blocks."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._mutex = threading.Lock()
        self._admin: KafkaAdminClient | None = None

    def current(self) -> str:
        """Return the topic's id.

        Raises:
            LogUnavailableError: Kafka is unavailable or has no such topic.
        """
        with self._mutex:
            try:
                self._admin = self._admin or open_admin(self._cluster)
                (found,) = self._admin.describe_topics([self._name])
            except (KafkaError, OSError) as error:
                self._close_admin()
                raise LogUnavailableError("kafka does not answer") from error
        if found["error_code"]:
            raise LogUnavailableError(
                f"there is no topic {self._name}: run `python -m services.feedback topics`",
                field=self._name,
                reason="MISSING",
            )
        return str(found["topic_id"])

    def require(self, topic_id: str) -> None:
        """Check that the name still refers to a topic id.

        Raises:
            TopicReplacedError: The topic was recreated.
            LogUnavailableError: Kafka is unavailable or has no such topic.
        """
        if self.current() != topic_id:
            raise TopicReplacedError(
                f"topic {self._name} was recreated; id {topic_id} no longer exists",
                field=self._name,
            )

    def close(self) -> None:
        """Close the connection to Kafka."""
        with self._mutex:
            self._close_admin()

    def _close_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            admin.close()


def open_admin(cluster: Cluster) -> KafkaAdminClient:
    """Open an admin client, closed by the caller; blocking.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    return build(KafkaAdminClient, **cluster.options(), request_timeout_ms=REQUEST_MS)


def partition_views(cluster: Cluster, name: str) -> list[LogView]:
    """Return the current range of each partition of a topic; blocking.

    Raises:
        LogUnavailableError: Kafka is unavailable or has no such topic.
    """
    try:
        with closing(open_admin(cluster)) as admin:
            (found,) = admin.describe_topics([name])
        if found["error_code"]:
            raise LogUnavailableError(
                f"there is no topic {name}: run `python -m services.feedback topics`",
                field=name,
                reason="MISSING",
            )
        topic_partitions = [
            TopicPartition(name, partition["partition_index"]) for partition in found["partitions"]
        ]
        with closing(build(KafkaConsumer, **cluster.options())) as consumer:
            starts = consumer.beginning_offsets(topic_partitions)
            ends = consumer.end_offsets(topic_partitions)
    except (KafkaError, OSError) as error:
        raise LogUnavailableError("kafka does not answer") from error
    return [
        LogView(
            str(found["topic_id"]),
            topic_partition.partition,
            starts[topic_partition],
            ends[topic_partition],
        )
        for topic_partition in topic_partitions
    ]
