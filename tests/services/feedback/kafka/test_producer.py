"""Publisher on a real broker: topics that may lose acknowledged records are refused."""

from dataclasses import replace

import pytest

from services.feedback.kafka.cluster import Cluster
from services.feedback.kafka.producer import KafkaPublisher
from services.feedback.kafka.record import RecordSigner
from services.feedback.kafka.relay import PublishError
from services.feedback.kafka.topic import TopicSettings, WeakTopicError, require_durable
from services.feedback.spool.log import Record
from tests.servers import KafkaServer
from tests.services.feedback.samples import entry
from tests.support.errors import refused

SIGNER = RecordSigner("feedback", bytes(32))
ONE_BROKER = TopicSettings(1, 1, 1, 7.0)


@pytest.mark.parametrize(
    ("configs", "required", "field", "limit"),
    [
        ({}, replace(ONE_BROKER, replication_factor=3), "replicas", "3"),
        (
            {"min_insync_replicas": "1"},
            replace(ONE_BROKER, min_insync_replicas=2),
            "min.insync.replicas",
            "2",
        ),
        (
            {"unclean_leader_election_enable": "true"},
            ONE_BROKER,
            "unclean.leader.election.enable",
            "false",
        ),
    ],
)
def test_a_topic_weaker_than_the_settings_is_not_written(
    kafka: KafkaServer, configs: dict[str, str], required: TopicSettings, field: str, limit: str
) -> None:
    """Finding S-21: a topic with one copy was used, and the write-ahead log was trimmed."""
    cluster, topic = Cluster(kafka.bootstrap), kafka.topic(**configs)
    with refused(WeakTopicError, field=field, limit=limit):
        require_durable(cluster, topic, required)
    publisher = KafkaPublisher(cluster, topic, 8.0, required, SIGNER)
    with pytest.raises(PublishError) as caught:
        publisher.publish([Record(0, 1, entry("a"))])
    assert isinstance(caught.value.__cause__, WeakTopicError)
    publisher.close()


def test_settings_for_one_broker_allow_its_topics(kafka: KafkaServer) -> None:
    """Finding S-21: an evaluation with one broker states its single copy in the settings."""
    publisher = KafkaPublisher(Cluster(kafka.bootstrap), kafka.topic(), 8.0, ONE_BROKER, SIGNER)
    publisher.publish([Record(0, 1, entry("a"))])
    publisher.close()
