"""Kafka by Strimzi: topics as created by feedback, and a user with the rights of feedback.

The feedback service is configured for both.
"""

import json
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


NAMES = (
    "kafka.topics.feedback=staging.feedback,kafka.topics.turns=staging.turns",
    "kafka.consumerGroup=staging-sink",
    "monitoring.podMonitors.enabled=true",
    "networkPolicies.metricsFrom[0].podSelector.matchLabels.app=prometheus",
    "kafka.strimzi.antiAffinity=preferred",
)


def test_two_releases_on_the_same_brokers_have_names_of_their_own() -> None:
    topics = {item["spec"]["topicName"] for item in of_kind(render(VALUES, *NAMES), "KafkaTopic")}
    assert topics == {"staging.feedback", "staging.turns"}
    acls = only("KafkaUser", *NAMES)["spec"]["authorization"]["acls"]
    assert {acl["resource"]["name"] for acl in acls} == topics | {"staging-sink"}
    feedback = pods(render(VALUES, *NAMES))["feedback/StatefulSet"]["spec"]
    settings = {item["name"]: item.get("value") for item in feedback["containers"][0]["env"]}
    assert settings["TW_FEEDBACK_FEEDBACK_TOPIC"] == "staging.feedback"
    assert settings["TW_FEEDBACK_TURNS_TOPIC"] == "staging.turns"
    assert settings["TW_FEEDBACK_CONSUMER_GROUP"] == "staging-sink"


def test_names_of_topics_are_the_defaults_of_feedback() -> None:
    fields, settings = FeedbackSettings.model_fields, environment()
    for name in ("feedback_topic", "turns_topic", "consumer_group"):
        assert settings[f"TW_FEEDBACK_{name.upper()}"] == fields[name].default


def test_a_lost_zone_leaves_enough_replicas_to_acknowledge() -> None:
    kafka, pool = only("Kafka")["spec"]["kafka"], only("KafkaNodePool")["spec"]
    assert kafka["rack"] == {"topologyKey": "topology.kubernetes.io/zone"}
    assert pool["replicas"] == kafka["config"]["default.replication.factor"] == 3
    assert kafka["config"]["min.insync.replicas"] == 2


def test_brokers_are_on_different_nodes_unless_a_value_says_otherwise() -> None:
    (name,) = {item["metadata"]["name"] for item in of_kind(render(VALUES), "KafkaNodePool")}
    brokers = {"strimzi.io/cluster": "tw-thumbwheel", "strimzi.io/pool-name": name}
    pod = only("KafkaNodePool")["spec"]["template"]["pod"]
    (term,) = pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"]["matchLabels"] == brokers
    for spread in pod["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"] == brokers
    other = only("KafkaNodePool", *NAMES)["spec"]["template"]["pod"]["affinity"]["podAntiAffinity"]
    assert other.keys() == {"preferredDuringSchedulingIgnoredDuringExecution"}


def test_each_store_of_the_file_is_reached_where_its_address_is() -> None:
    """Postgres was opened in another namespace than that of its short name, and S3 nowhere."""
    policies = {component(item): item["spec"] for item in of_kind(render(VALUES), "NetworkPolicy")}
    found = {
        (name, port["port"]): sorted(key for peer in rule["to"] for key in peer)
        for name in ("feedback", "session", "gateway")
        for rule in policies[name]["egress"]
        for port in rule["ports"]
        if port["port"] in (443, 5432, 6379, 9093)
    }
    # A selector of pods without one of namespaces means the namespace of the release.
    assert found == {
        ("feedback", 5432): ["podSelector"],
        ("feedback", 9093): ["podSelector"],
        ("feedback", 443): ["ipBlock", "ipBlock", "namespaceSelector"],
        ("session", 5432): ["podSelector"],
        ("gateway", 5432): ["podSelector"],
        ("gateway", 6379): ["namespaceSelector"],
    }


def test_brokers_are_monitored_with_the_services() -> None:
    assert "metricsConfig" not in only("Kafka")["spec"]["kafka"]
    objects = render(VALUES, *NAMES)
    assert only("Kafka", *NAMES)["spec"]["kafka"]["metricsConfig"]["type"] == (
        "strimziMetricsReporter"
    )
    (monitor,) = [item for item in of_kind(objects, "PodMonitor") if component(item) == "brokers"]
    pool = only("KafkaNodePool", *NAMES)
    assert monitor["spec"]["selector"]["matchLabels"] == {
        "strimzi.io/cluster": pool["metadata"]["labels"]["strimzi.io/cluster"],
        "strimzi.io/pool-name": pool["metadata"]["name"],
    }
    assert [item["port"] for item in monitor["spec"]["podMetricsEndpoints"]] == ["tcp-prometheus"]


def test_resources_with_acknowledged_events_outlive_the_release() -> None:
    kept = of_kind(render(VALUES), "Kafka", "KafkaNodePool", "KafkaTopic")
    assert len(kept) == 4
    assert {item["metadata"]["annotations"]["helm.sh/resource-policy"] for item in kept} == {"keep"}
    (volume,) = only("KafkaNodePool")["spec"]["storage"]["volumes"]
    assert volume["deleteClaim"] is False


def test_triggers_of_keda_name_the_release() -> None:
    query = 'sum(a{namespace="{{ .Release.Namespace }}",release="{{ .Release.Name }}"})'
    trigger = {
        "type": "prometheus",
        "metadata": {"query": query, "threshold": "50"},
        "authenticationRef": {"name": '{{ include "thumbwheel.name" (list . "metrics") }}'},
    }
    json_sets = (f"services.gateway.keda.triggers={json.dumps([trigger])}",)
    objects = render(VALUES, json_sets=json_sets, release="two", namespace="staging")
    (scaled,) = of_kind(objects, "ScaledObject")
    assert scaled["spec"]["triggers"] == [
        {
            "type": "prometheus",
            "metadata": {"query": 'sum(a{namespace="staging",release="two"})', "threshold": "50"},
            "authenticationRef": {"name": "two-thumbwheel-metrics"},
        }
    ]
    (scaled,) = of_kind(render(VALUES), "ScaledObject")
    assert 'namespace="chat"' in scaled["spec"]["triggers"][0]["metadata"]["query"]


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
