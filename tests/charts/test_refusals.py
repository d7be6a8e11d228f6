"""Wrong values are refused by Helm, and the refusal names the value. What Helm says around it
differs between its versions.
"""

import pytest

from tests.charts.rendering import CHART, VALUES, every_file, helm, refusal

# With gitops nobody looks whether there is an operator.
RAY = "training.enabled=true,ray.mode=kuberay,gitops=true"
SCALED = "ray.autoscaling.enabled=true"
GPU = "ray.workers.nodeSelector.pool=gpu,ray.workers.resources.limits.nvidia\\.com/gpu=2"
# What is set, and what the refusal names: single values by values.schema.json, combinations by
# templates/_validation.tpl.
BY_SCHEMA = {
    "a key that nobody knows": ("servces.gateway.replicas=1", "servces"),
    "a key of a service that nobody knows": ("services.gateway.replica=1", "replica"),
    "a word for a number": ("services.gateway.replicas=many", "replicas"),
    "brokers without a port": ("kafka.bootstrap=kafka", "bootstrap"),
    "an endpoint with a scheme": ("objectStore.endpoint=https://s3", "endpoint"),
    "a mode that is none": ("serving.mode=gpu", "mode"),
    "a digest that is none": ("images.services.digest=latest", "digest"),
    "a setting in capitals": ("services.gateway.settings.MAX_TURNS=1", "MAX_TURNS"),
    "a setting that is mistyped": ("services.gateway.settings.max_turn=1", "max_turn"),
    "a setting of another service": ("services.feedback.settings.max_turns=1", "max_turns"),
    "a setting for all that only one has": ("serviceDefaults.settings.max_turns=1", "max_turns"),
    "a setting of the model server that is mistyped": (
        "serving.predictor.settings.thread=1",
        "thread",
    ),
    "a secret in the open": (
        "services.gateway.settings.principal_key=0123456789abcdef",
        "principal_key",
    ),
    "a recipe that is none": ("training.recipe=large", "recipe"),
    "words that a shell would read": ("training.extraArgs={--every;ls}", "extraArgs"),
    "no time to leave": ("training.noticeSeconds=0", "noticeSeconds"),
}
BY_TEMPLATE = {
    "no database": ("database.existingSecret=", "database.existingSecret"),
    "no brokers": ("kafka.bootstrap=", "kafka.bootstrap"),
    "no store": ("objectStore.endpoint=", "objectStore.endpoint"),
    "no keys of the store": ("objectStore.existingSecret=", "objectStore.existingSecret"),
    "brokers with passwords that are nowhere": ("kafka.existingSecret=", "kafka.existingSecret"),
    "passwords that nobody would use": (
        "kafka.securityProtocol=PLAINTEXT",
        "kafka.securityProtocol",
    ),
    "an end of its own": (
        "services.gateway.settings.drain_seconds=120",
        "services.gateway.settings.drain_seconds",
    ),
    "connections that outlive their gateway": (
        "serviceDefaults.settings.connection_age_seconds=300",
        "settings.connection_age_seconds",
    ),
    "two gateways without Valkey": ("valkey.existingSecret=", "valkey.existingSecret"),
    "an autoscaled spool": (
        "services.feedback.autoscaling.enabled=true",
        "services.feedback.autoscaling",
    ),
    "fewer at most than at least": (
        "services.session.autoscaling.enabled=true,services.session.autoscaling.maxReplicas=1",
        "services.session.autoscaling",
    ),
    "an ingress without a host": ("door.ingress.enabled=true", "door.ingress.host"),
    "routes without a Gateway": ("door.gatewayApi.enabled=true", "door.gatewayApi.gateway"),
    "rules where no operator is": ("monitoring.rules.enabled=true", "monitoring.rules.enabled"),
    "monitors where no operator is": (
        "monitoring.podMonitors.enabled=true",
        "monitoring.podMonitors.enabled",
    ),
    "both scalers": (
        "services.session.autoscaling.enabled=true,services.session.keda.enabled=true,services.session.keda.triggers[0].type=cpu",
        "services.session.keda.enabled",
    ),
    "KEDA without a trigger": (
        "services.session.keda.enabled=true",
        "services.session.keda.triggers",
    ),
    "KEDA where there is none": (
        "services.session.keda.enabled=true,services.session.keda.triggers[0].type=cpu",
        "services.session.keda.enabled",
    ),
    "a spool that KEDA scales": (
        "services.feedback.keda.enabled=true,services.feedback.keda.triggers[0].type=cpu",
        "services.feedback.keda",
    ),
    "an authority in no secret": (
        "kafka.existingSecret=,kafka.securityProtocol=SSL",
        "kafka.caSecret",
    ),
    "brokers that are there and brokers of Strimzi": (
        "kafka.strimzi.enabled=true",
        "kafka.bootstrap",
    ),
    "more in sync than there are": (
        "kafka.topics.minInsyncReplicas=4",
        "kafka.topics.minInsyncReplicas",
    ),
    "GitOps with generated keys": ("gitops=true,secrets.existing=", "secrets.existing"),
    "turns as RayJobs where no operator is": ("training.enabled=true,ray.mode=kuberay", "ray.mode"),
    "a recipe that trains another model": (
        "training.enabled=true,training.recipe=small,models.initial=nano-0",
        "training.recipe models.initial nano-0",
    ),
    "the usual recipe for the other model": (
        "training.enabled=true,models.initial=small-1",
        "training.recipe models.initial small-1",
    ),
    "GPUs for a turn in one pod": ("training.enabled=true,ray.workers.gpus=1", "ray.workers.gpus"),
    "GPUs that are nowhere": (f"{RAY},ray.workers.gpus=1", "ray.workers.nodeSelector"),
    "GPUs said twice": (f"{RAY},{GPU}", "ray.workers.resources.limits"),
    "an autoscaler in one pod": (
        "training.enabled=true,ray.autoscaling.enabled=true",
        "ray.autoscaling.enabled",
    ),
    "more workers at least than at most": (
        f"{RAY},{SCALED},ray.autoscaling.minReplicas=2",
        "ray.autoscaling.minReplicas",
    ),
    "fewer workers in one pod": (
        "training.enabled=true,ray.workers.fewest=1",
        "ray.workers.fewest",
    ),
    "rollout actors in one pod": ("training.enabled=true,ray.rolloutActors=1", "ray.rolloutActors"),
    "more workers at first than at most": (f"{RAY},ray.workers.fewest=2", "ray.workers.fewest"),
    "actors whose pods an elastic group would count": (
        f"{RAY},ray.workers.fewest=1,ray.rolloutActors=1",
        "ray.rolloutActors",
    ),
    "actors that would keep GPUs from workers": (
        f"{RAY},ray.rolloutActors=1,ray.workers.gpus=1,ray.workers.nodeSelector.pool=gpu",
        "ray.rolloutActors",
    ),
    "a queue for what grows": (f"{RAY},{SCALED},ray.queueName=night", "ray.queueName"),
    "a trial longer than its turn": (
        "training.enabled=true,training.canary.seconds=90000",
        "training.canary.seconds",
    ),
}
WRONG = BY_SCHEMA | BY_TEMPLATE


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_named(case: str) -> None:
    said, named = WRONG[case]
    told = refusal("existing-values.yaml", said)
    assert [word for word in named.split() if word not in told] == []


TWICE = {
    "database.existingSecret": "databases",
    "kafka.bootstrap": "kafka:9092",
    "kafka.existingSecret": "kafka",
    "kafka.caKey": "ca.crt",
    "kafka.securityProtocol": "SSL",
    "objectStore.endpoint": "s3",
    "objectStore.existingSecret": "bucket",
    "valkey.existingSecret": "valkey",
}


@pytest.mark.parametrize("value", TWICE)
def test_an_evaluation_with_a_store_from_outside_is_refused_by_name(value: str) -> None:
    assert f"{value}: " in refusal("evaluation-values.yaml", f"{value}={TWICE[value]}")


def test_an_evaluation_with_gitops_is_refused_for_its_passwords_are_generated() -> None:
    assert "evaluation.enabled: " in refusal(
        "evaluation-values.yaml", "gitops=true,secrets.existing=keys"
    )


@every_file("everything-values.yaml", "evaluation-values.yaml")
def test_helm_finds_nothing_to_complain_about(values: str) -> None:
    no_operator = (
        "monitoring.podMonitors.enabled=false,monitoring.rules.enabled=false,training.enabled=false"
    )
    done = helm("lint", "--strict", str(CHART), "-f", str(VALUES / values), "--set", no_operator)
    assert done.returncode == 0, done.stdout + done.stderr


STRIMZI = {
    "where there is none": ("gitops=false", "kafka.strimzi.enabled"),
    "with fewer brokers than replicas": (
        "kafka.strimzi.brokers=2",
        "kafka.topics.replicationFactor",
    ),
    "with a protocol of one's own": ("kafka.securityProtocol=SSL", "kafka.securityProtocol"),
}


@pytest.mark.parametrize("case", STRIMZI)
def test_strimzi_is_refused_by_name(case: str) -> None:
    said, named = STRIMZI[case]
    assert f"{named}: " in refusal("strimzi-values.yaml", said)
