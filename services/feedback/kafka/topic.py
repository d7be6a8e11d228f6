"""Topics of a Kafka cluster: current id behind a name, creation and description.

A topic that was deleted and recreated has the same name but another id, and its offsets start at 0.
The client fetches by name. Readers therefore verify the id after each read and before each commit
(`NamedTopic.require`). Kafka's durability depends on the settings of a topic, rather than on disk
syncs.
"""

import threading
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from services.chassis.errors import DetailedError
from services.feedback.kafka.cluster import MAX_MESSAGE_BYTES, REQUEST_MS, Cluster
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
                return str(_existing(self._admin, self._name)["topic_id"])
            except (KafkaError, OSError) as error:
                self._close_admin()
                raise LogUnavailableError("kafka does not answer") from error

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
    return cluster.build(KafkaAdminClient, request_timeout_ms=REQUEST_MS)


def partition_views(cluster: Cluster, name: str) -> list[LogView]:
    """Return the current range of each partition of a topic; blocking.

    Raises:
        LogUnavailableError: Kafka is unavailable or has no such topic.
    """
    try:
        with closing(open_admin(cluster)) as admin:
            found = _existing(admin, name)
        topic_partitions = [
            TopicPartition(name, partition["partition_index"]) for partition in found["partitions"]
        ]
        with closing(cluster.build(KafkaConsumer)) as consumer:
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


def _existing(admin: KafkaAdminClient, name: str) -> dict[str, Any]:
    (found,) = admin.describe_topics([name])
    if found["error_code"]:
        raise LogUnavailableError(
            f"there is no topic {name}: run `python -m services.feedback topics`",
            field=name,
            reason="MISSING",
        )
    topic: dict[str, Any] = found
    return topic


@dataclass(frozen=True)
class TopicSettings:
    """Settings of a topic."""

    partitions: int
    replication_factor: int
    min_insync_replicas: int
    retention_days: float

    def configs(self) -> dict[str, str]:
        """Return the settings under Kafka's names."""
        return {
            "min.insync.replicas": str(self.min_insync_replicas),
            # A replica without all acknowledged events must not become the leader.
            "unclean.leader.election.enable": "false",
            "retention.ms": str(int(self.retention_days * 86_400_000)),
            "cleanup.policy": "delete",
            "max.message.bytes": str(MAX_MESSAGE_BYTES),
            # With the relays' clocks, events that waited long in a spool would be deleted before
            # they are sunk.
            "message.timestamp.type": "LogAppendTime",
        }


def make_topics(
    admin: KafkaAdminClient, names: Sequence[str], settings: TopicSettings
) -> list[str]:
    """Create missing topics and leave existing topics unchanged.

    Returns lines that describe the topics.

    Raises:
        KafkaError: Kafka is unavailable or rejects a request.
    """
    lines = []
    for name in names:
        request = {
            "num_partitions": settings.partitions,
            "replication_factor": settings.replication_factor,
            "configs": settings.configs(),
        }
        try:
            admin.create_topics({name: request})
            admin.wait_for_topics([name])
            state = "created"
        except TopicAlreadyExistsError:
            state = "exists"
        topic, found = _describe(admin, name, settings)
        wanted = settings.configs() | {
            "partitions": str(settings.partitions),
            "replicas": str([settings.replication_factor]),
        }
        lines.append(f"{name}: {state}, id {topic['topic_id']}")
        for key, value in found.items():
            differs = "" if value == wanted[key] else f"  (settings: {wanted[key]})"
            lines.append(f"  {key} = {value}{differs}")
    return lines


class WeakTopicError(DetailedError):
    """Topic may lose acknowledged records: `field` is the topic's setting, `limit` the minimum."""

    reason = "WEAK_TOPIC"


def require_durable(cluster: Cluster, name: str, settings: TopicSettings) -> None:
    """Require a topic that is at least as durable as the settings; blocking.

    Raises:
        WeakTopicError: A setting of the topic is weaker, or not readable.
        KafkaError: Kafka is unavailable, has no such topic, or denies access.
    """
    with closing(open_admin(cluster)) as admin:
        topic, found = _describe(admin, name, settings)
    copies = min(len(partition["replica_nodes"]) for partition in topic["partitions"])
    insync, unclean = "min.insync.replicas", "unclean.leader.election.enable"
    in_sync = int(found[insync]) if found[insync].isdecimal() else 0
    for field, value, minimum, is_weak in (
        (
            "replicas",
            str(copies),
            settings.replication_factor,
            copies < settings.replication_factor,
        ),
        (
            insync,
            found[insync],
            settings.min_insync_replicas,
            in_sync < settings.min_insync_replicas,
        ),
        (unclean, found[unclean], "false", found[unclean] != "false"),
    ):
        if is_weak:
            raise WeakTopicError(
                f"topic {name}: {field} is {value}, the settings require {minimum}",
                field=field,
                limit=str(minimum),
            )


def _describe(
    admin: KafkaAdminClient, name: str, settings: TopicSettings
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the description of a topic, and its settings under Kafka's names.

    Without permission to read them the settings are empty texts.
    """
    (topic,) = admin.describe_topics([name])
    if topic["error_code"]:
        raise for_code(topic["error_code"])(name)
    resource = ConfigResource(ConfigResourceType.TOPIC, name)
    described = admin.describe_configs([resource], config_filter="all").get("topic", {})
    configs = described.get(name, {})
    found = {key: str(configs.get(key, {}).get("value", "")) for key in settings.configs()}
    replicas = sorted({len(partition["replica_nodes"]) for partition in topic["partitions"]})
    found |= {"partitions": str(len(topic["partitions"])), "replicas": str(replicas)}
    return topic, found
