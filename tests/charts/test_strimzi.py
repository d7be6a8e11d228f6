"""Kafka by Strimzi: topics as feedback would make them, a user who may do what feedback does, and
feedback finds both.
"""

from typing import Any

from services.feedback.kafka.topics import TopicSettings
from services.feedback.settings import FeedbackSettings
from tests.charts.rendering import component, containers, of_kind, pods, render

VALUES = "strimzi-values.yaml"


def only(kind: str, *sets: str) -> Any:
    (found,) = of_kind(render(VALUES, *sets), kind)
    return found


def environment() -> dict[str, Any]:
    (container,) = [each for each in containers(render(VALUES)) if each["name"] == "feedback"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def test_its_topics_are_those_that_feedback_would_make() -> None:
    topics = {
        each["spec"]["topicName"]: each["spec"] for each in of_kind(render(VALUES), "KafkaTopic")
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


def test_feedback_is_the_user_and_makes_no_topics_itself() -> None:
    user, said = only("KafkaUser")["metadata"]["name"], environment()
    assert said["TW_FEEDBACK_KAFKA_USERNAME"] == user
    assert said["TW_FEEDBACK_KAFKA_PASSWORD"] == {"secretKeyRef": {"name": user, "key": "password"}}
    assert (
        said["TW_FEEDBACK_KAFKA_BOOTSTRAP"]
        == f"{only('Kafka')['metadata']['name']}-kafka-bootstrap:9093"
    )
    assert said["TW_FEEDBACK_KAFKA_SECURITY_PROTOCOL"] == "SASL_SSL"
    pod = pods(render(VALUES))["feedback/StatefulSet"]["spec"]
    assert [each["name"] for each in pod["initContainers"]] == ["migrate", "bucket"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "kafka"]
    assert volume["secret"]["secretName"] == f"{only('Kafka')['metadata']['name']}-cluster-ca-cert"


def test_the_user_may_read_and_write_its_topics_and_follow_its_groups_and_nothing_else() -> None:
    acls = only("KafkaUser")["spec"]["authorization"]["acls"]
    topics = {
        acl["resource"]["name"]: set(acl["operations"])
        for acl in acls
        if acl["resource"]["type"] == "topic"
    }
    assert topics.keys() == {
        each["spec"]["topicName"] for each in of_kind(render(VALUES), "KafkaTopic")
    }
    assert all(
        rights == {"Describe", "DescribeConfigs", "Read", "Write"} for rights in topics.values()
    )
    (group,) = [acl for acl in acls if acl["resource"]["type"] == "group"]
    assert group["resource"]["name"] == FeedbackSettings.model_fields["consumer_group"].default
    assert len(acls) == 3


def test_a_topic_with_another_name_is_that_everywhere() -> None:
    other = "services.feedback.settings.turns_topic=other"
    names = {each["spec"]["topicName"] for each in of_kind(render(VALUES, other), "KafkaTopic")}
    assert "other" in names
    assert "other" in {
        acl["resource"]["name"] for acl in only("KafkaUser", other)["spec"]["authorization"]["acls"]
    }


def test_what_holds_acknowledged_events_outlives_the_release() -> None:
    kept = of_kind(render(VALUES), "Kafka", "KafkaNodePool", "KafkaTopic")
    assert len(kept) == 4
    assert {each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in kept} == {"keep"}
    (volume,) = only("KafkaNodePool")["spec"]["storage"]["volumes"]
    assert volume["deleteClaim"] is False


def test_a_service_that_keda_scales_has_no_replicas_of_its_own_and_no_other_scaler() -> None:
    objects = render(VALUES)
    (scaled,) = of_kind(objects, "ScaledObject")
    (gateway,) = [each for each in of_kind(objects, "Deployment") if component(each) == "gateway"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == gateway["metadata"]["name"]
    assert "replicas" not in gateway["spec"]
    assert of_kind(objects, "HorizontalPodAutoscaler") == []
    assert component(scaled) in {
        component(each) for each in of_kind(objects, "PodDisruptionBudget")
    }
