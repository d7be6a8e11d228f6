"""Creation and description of topics.

Kafka's durability depends on these topic settings, rather than on disk syncs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import TopicAlreadyExistsError

from services.feedback.kafka.cluster import MAX_MESSAGE_BYTES


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
        (topic,) = admin.describe_topics([name])
        replicas = sorted({len(partition["replica_nodes"]) for partition in topic["partitions"]})
        resource = ConfigResource(ConfigResourceType.TOPIC, name)
        configs = admin.describe_configs([resource], config_filter="all")["topic"][name]
        wanted = settings.configs() | {
            "partitions": str(settings.partitions),
            "replicas": str([settings.replication_factor]),
        }
        found = {key: str(configs[key]["value"]) for key in settings.configs()}
        found |= {"partitions": str(len(topic["partitions"])), "replicas": str(replicas)}
        lines.append(f"{name}: {state}, id {topic['topic_id']}")
        for key, value in found.items():
            differs = "" if value == wanted[key] else f"  (settings: {wanted[key]})"
            lines.append(f"  {key} = {value}{differs}")
    return lines
