"""Credentials of the stores: roles, and secrets as operators and External Secrets write them."""

from collections.abc import Mapping
from typing import Any

from tests.charts.rendering import Object, component, of_kind, outside_ports, pods, render

SETS = (
    "objectStore.existingSecret=",
    "objectStore.credentials=chain",
    "objectStore.endpoint=s3.stores:8333",
    "training.enabled=true",
    "ray.mode=job",
    "models.store=s3://thumbwheel/models",
)
KEYS = (
    "secrets.keys.principalKey=PRINCIPAL",
    "secrets.keys.masterKey=master.key",
    "secrets.keys.acceptedMasterKeys=master.accepted",
    "secrets.keys.valkeySecret=VALKEY",
    "secrets.keys.modelServerKey=api_key",
    "kafka.keys.username=user",
    "kafka.keys.password=sasl.password",
    "valkey.keys.url=VALKEY_URL",
    "objectStore.keys.accessKey=AWS_ACCESS_KEY_ID",
    "objectStore.keys.secretKey=AWS_SECRET_ACCESS_KEY",
    "training.enabled=true",
    "ray.mode=job",
)


def rendered(*sets: str) -> list[Object]:
    return list(render("existing-values.yaml", *sets))


def environment(objects: list[Object], pod: str) -> Mapping[str, Any]:
    """Return value or `secret/key` of each variable of the first container of a pod."""
    found = {}
    for item in pods(objects)[pod]["spec"]["containers"][0]["env"]:
        reference = item.get("valueFrom", {}).get("secretKeyRef")
        found[item["name"]] = (
            f"{reference['name']}/{reference['key']}" if reference else item["value"]
        )
    return found


def test_pods_with_a_role_get_no_keys_of_the_bucket() -> None:
    objects = rendered(*SETS)
    for pod, prefix in (("feedback/StatefulSet", "FEEDBACK"), ("training/CronJob", "TRAINING")):
        found = environment(objects, pod)
        assert found[f"TW_{prefix}_S3_CREDENTIALS"] == "chain"
        assert not {f"TW_{prefix}_S3_ACCESS_KEY", f"TW_{prefix}_S3_SECRET_KEY"} & found.keys()
    assert "'name': 'bucket', 'key'" not in str(objects), "no pod reads the secret of the keys"


ANNOTATION = "eks.amazonaws.com/role-arn"
ROLE = ANNOTATION.replace(".", "\\.")
ACCOUNTS = (
    f"serviceAccount.bucket.annotations.{ROLE}=writes",
    "backup.enabled=true",
    "reviewDraw.enabled=true",
)
WITH_BUCKET = {
    "feedback/StatefulSet",
    "backup/CronJob",
    "review-draw/CronJob",
    "training/CronJob",
    "training/RayJob",
    "ray-worker/RayJob",
    "model/Job",
}


def role_of_accounts(objects: list[Object]) -> dict[str, str | None]:
    """Return the role in the annotations of each service account."""
    return {
        item["metadata"]["name"]: item["metadata"].get("annotations", {}).get(ANNOTATION)
        for item in of_kind(objects, "ServiceAccount")
    }


def with_a_role(objects: list[Object]) -> set[str]:
    """Return the pods whose account has a role."""
    found = role_of_accounts(objects)
    return {
        name
        for name, pod in pods(objects).items()
        if found.get(pod["spec"].get("serviceAccountName"))
    }


def test_only_pods_that_use_the_bucket_have_its_role() -> None:
    """One annotation gave the role to almost every pod."""
    found = with_a_role(rendered(*SETS, *ACCOUNTS))
    found |= with_a_role(rendered(*SETS, *ACCOUNTS, "ray.mode=kuberay"))
    assert found == WITH_BUCKET


def test_pods_without_the_bucket_keep_the_common_account() -> None:
    elsewhere = ("backup.claim.existingClaim=backups", "training.checkpointsInBucket=false")
    objects = rendered(*SETS, *ACCOUNTS, *elsewhere, "ray.mode=kuberay")
    assert not {"backup/CronJob", "ray-worker/RayJob"} & with_a_role(objects)


def test_the_account_of_the_model_store_has_a_role_of_its_own() -> None:
    objects = list(
        render(
            "gpu-values.yaml",
            *("objectStore.credentials=chain", "objectStore.existingSecret="),
            "models.store=s3://thumbwheel/models",
            *ACCOUNTS,
            f"serviceAccount.annotations.{ROLE}=nothing",
            f"serviceAccount.modelStore.annotations.{ROLE}=reads",
        )
    )
    assert role_of_accounts(objects) == {
        "tw-thumbwheel": "nothing",
        "tw-thumbwheel-bucket": "writes",
        "tw-thumbwheel-model-store": "reads",
        "tw-thumbwheel-generator": None,
    }


def test_an_account_of_an_administrator_is_used_for_the_bucket() -> None:
    own = ("serviceAccount.create=false", "serviceAccount.name=chat")
    for expected, more in (("chat", ()), ("bucket", ("serviceAccount.bucket.name=bucket",))):
        pod = pods(rendered(*SETS, *own, *more))["feedback/StatefulSet"]
        assert pod["spec"]["serviceAccountName"] == expected


def test_pods_with_a_role_reach_the_issuer_of_credentials() -> None:
    policies = {component(each): each["spec"] for each in of_kind(rendered(*SETS), "NetworkPolicy")}
    assert {8333, 443} <= outside_ports(policies["feedback"])
    assert {8333, 443} <= outside_ports(policies["training"])
    assert 443 not in outside_ports(policies["session"])


def test_keys_of_the_bucket_have_the_names_of_the_values() -> None:
    objects = rendered(*KEYS)
    for pod, prefix in (("feedback/StatefulSet", "FEEDBACK"), ("training/CronJob", "TRAINING")):
        found = environment(objects, pod)
        assert found[f"TW_{prefix}_S3_ACCESS_KEY"] == "bucket/AWS_ACCESS_KEY_ID"
        assert found[f"TW_{prefix}_S3_SECRET_KEY"] == "bucket/AWS_SECRET_ACCESS_KEY"
        assert f"TW_{prefix}_S3_CREDENTIALS" not in found
    policies = {component(each): each["spec"] for each in of_kind(objects, "NetworkPolicy")}
    assert 443 not in outside_ports(policies["feedback"])


def test_keys_of_every_secret_have_the_names_of_the_values() -> None:
    objects = rendered(*KEYS)
    expected = {
        "feedback/StatefulSet": {
            "TW_FEEDBACK_PRINCIPAL_KEY": "keys/PRINCIPAL",
            "TW_FEEDBACK_MASTER_KEY": "keys/master.key",
            "TW_FEEDBACK_ACCEPTED_MASTER_KEYS": "keys/master.accepted",
            "TW_FEEDBACK_KAFKA_USERNAME": "kafka/user",
            "TW_FEEDBACK_KAFKA_PASSWORD": "kafka/sasl.password",
        },
        "gateway/Deployment": {
            "TW_GATEWAY_PRINCIPAL_KEY": "keys/PRINCIPAL",
            "TW_GATEWAY_VALKEY_SECRET": "keys/VALKEY",
            "TW_GATEWAY_VALKEY_URL": "valkey/VALKEY_URL",
        },
        "generator/Deployment": {"TW_GENERATOR_MODEL_SERVER_KEY": "model-server/api_key"},
        "predictor/Deployment": {"TW_PREDICTOR_MODEL_SERVER_KEY": "model-server/api_key"},
    }
    for pod, variables in expected.items():
        found = environment(objects, pod)
        assert {name: found[name] for name in variables} == variables


def test_master_keys_of_a_rotation_may_be_absent() -> None:
    (variable,) = (
        item
        for item in pods(rendered(*KEYS))["feedback/StatefulSet"]["spec"]["containers"][0]["env"]
        if item["name"] == "TW_FEEDBACK_ACCEPTED_MASTER_KEYS"
    )
    assert variable["valueFrom"]["secretKeyRef"]["optional"] is True
