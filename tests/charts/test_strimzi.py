"""Kafka by Strimzi: topics as created by feedback, and a user with the rights of feedback.

The feedback service is configured for both.
"""

from typing import Any

from services.feedback.kafka.topic import TopicSettings
from services.feedback.settings import FeedbackSettings
from tests.charts.rendering import component, containers, of_kind, pods, render

VALUES = "strimzi-values.yaml"


def only(kind: str, *sets: str) -> Any:
    (found,) = of_kind(render(VALUES, *sets), kind)
    return found


def environment() -> dict[str, Any]:
    (container,) = [item for item in containers(render(VALUES)) if item["name"] == "feedback"]
    return {item["name"]: item.get("value", item.get("valueFrom")) for item in container["env"]}


def test_its_topics_equal_those_created_by_feedback() -> None:
    topics = {
        item["spec"]["topicName"]: item["spec"] for item in of_kind(render(VALUES), "KafkaTopic")
    }
    fields = FeedbackSettings.model_fields
    assert topics.keys() == {fields["feedback_topic"].default, fields["turns_topic"].default}
    plan = TopicSettings(
        partitions=12, replication_factor=3, min_insync_replicas=2, retention_days=14
    )
    for spec in topics.values():
        assert (spec["partitions"], spec["replicas"]) == (plan.partitions, plan.replication_factor)
        written = {
            key: str(value).lower() if value is False else str(value)
            for key, value in spec["config"].items()
        }
        assert written == plan.configs()


def test_feedback_uses_the_user_and_creates_no_topics() -> None:
    user, settings = only("KafkaUser")["metadata"]["name"], environment()
    assert settings["TW_FEEDBACK_KAFKA_USERNAME"] == user
    assert settings["TW_FEEDBACK_KAFKA_PASSWORD"] == {
        "secretKeyRef": {"name": user, "key": "password"}
    }
    assert (
        settings["TW_FEEDBACK_KAFKA_BOOTSTRAP"]
        == f"{only('Kafka')['metadata']['name']}-kafka-bootstrap:9093"
    )
    assert settings["TW_FEEDBACK_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
    pod = pods(render(VALUES))["feedback/StatefulSet"]["spec"]
    assert [item["name"] for item in pod["initContainers"]] == ["migrate", "bucket"]
    (volume,) = [item for item in pod["volumes"] if item["name"] == "kafka"]
    assert volume["secret"]["secretName"] == f"{only('Kafka')['metadata']['name']}-cluster-ca-cert"


def test_the_user_has_rights_on_its_topics_and_group_only() -> None:
    acls = only("KafkaUser")["spec"]["authorization"]["acls"]
    topics = {
        acl["resource"]["name"]: set(acl["operations"])
        for acl in acls
        if acl["resource"]["type"] == "topic"
    }
    assert topics.keys() == {
        item["spec"]["topicName"] for item in of_kind(render(VALUES), "KafkaTopic")
    }
    assert all(
        rights == {"Describe", "DescribeConfigs", "Read", "Write"} for rights in topics.values()
    )
    (group,) = [acl for acl in acls if acl["resource"]["type"] == "group"]
    assert group["resource"]["name"] == FeedbackSettings.model_fields["consumer_group"].default
    assert len(acls) == 3


def test_a_changed_topic_name_is_used_everywhere() -> None:
    other = "services.feedback.settings.turns_topic=other"
    names = {item["spec"]["topicName"] for item in of_kind(render(VALUES, other), "KafkaTopic")}
    assert "other" in names
    assert "other" in {
        acl["resource"]["name"] for acl in only("KafkaUser", other)["spec"]["authorization"]["acls"]
    }


def test_resources_with_acknowledged_events_outlive_the_release() -> None:
    kept = of_kind(render(VALUES), "Kafka", "KafkaNodePool", "KafkaTopic")
    assert len(kept) == 4
    assert {item["metadata"]["annotations"]["helm.sh/resource-policy"] for item in kept} == {"keep"}
    (volume,) = only("KafkaNodePool")["spec"]["storage"]["volumes"]
    assert volume["deleteClaim"] is False


def test_a_service_scaled_by_keda_has_no_replicas_and_no_other_scaler() -> None:
    objects = render(VALUES)
    (scaled,) = of_kind(objects, "ScaledObject")
    (gateway,) = [item for item in of_kind(objects, "Deployment") if component(item) == "gateway"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == gateway["metadata"]["name"]
    assert "replicas" not in gateway["spec"]
    assert of_kind(objects, "HorizontalPodAutoscaler") == []
    assert component(scaled) in {
        component(item) for item in of_kind(objects, "PodDisruptionBudget")
    }
