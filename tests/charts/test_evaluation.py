"""The stores of an evaluation: configuration, secrets, and their use by the services."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from infra.machine.evaluation_stores import layout, ping
from infra.machine.evaluation_stores.preparation import PREPARE
from infra.machine.servers.installation import find_installed
from infra.machine.servers.postgres import USER
from infra.machine.servers.seaweedfs import ACCESS_KEY
from infra.service_table import service_table
from tests.charts.rendering import Object, component, of_kind, render

VALUES = "evaluation-values.yaml"


def pod(store: str) -> Any:
    (found,) = [item for item in of_kind(render(VALUES), "StatefulSet") if component(item) == store]
    return found["spec"]["template"]["spec"]


def container(store: str) -> Any:
    (container_spec,) = pod(store)["containers"]
    return container_spec


def secret() -> dict[str, str]:
    (found,) = [
        item for item in of_kind(render(VALUES), "Secret") if component(item) == "evaluation"
    ]
    assert found["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


@pytest.mark.parametrize("store", PREPARE)
def test_a_store_has_its_own_mounts_and_only_its_own_secret(store: str) -> None:
    assert container(store)["args"][:2] == ["infra.machine.evaluation_stores", store]
    mounts = {mount["name"]: mount["mountPath"] for mount in container(store)["volumeMounts"]}
    assert mounts["data"] == layout.DATA
    assert mounts.get("secrets", layout.SECRETS) == layout.SECRETS
    assert [port["containerPort"] for port in container(store)["ports"]] == [layout.PORTS[store][0]]
    mounted = [
        item["key"]
        for item in pod(store)["volumes"]
        for item in item.get("secret", {}).get("items", ())
    ]
    assert len(mounted) == (store != "kafka")
    assert set(mounted) <= set(secret())


def test_the_secret_contains_passwords_and_no_urls() -> None:
    keys = secret()
    assert keys.pop("access-key") == ACCESS_KEY
    assert set(keys) == {"postgres-password", "valkey-password", "secret-key"}
    assert len(set(keys.values())) == 3
    assert min(map(len, keys.values())) >= 32


@pytest.mark.parametrize("service", service_table().databases)
def test_the_urls_of_a_service_contain_the_passwords_of_the_stores(service: str) -> None:
    """Kubernetes expands a variable only below the variable that it refers to."""
    environment = expanded(service)
    driver = "pg8000" if service == "feedback" else "asyncpg"
    url = f"postgresql+{driver}://{USER}:<postgres-password>@tw-thumbwheel-postgres:5432/{service}"
    assert environment[f"TW_{service.upper()}_DATABASE_URL"] == url
    if service == "gateway":
        assert (
            environment["TW_GATEWAY_VALKEY_URL"]
            == "valkey://:<valkey-password>@tw-thumbwheel-valkey:6379"
        )


def expanded(service: str) -> dict[str, str]:
    """Return the environment as expanded by Kubernetes, in the order of the variables.

    A key of the secret represents its value.
    """
    (container_spec,) = next(item for item in services() if component(item) == service)["spec"][
        "template"
    ]["spec"]["containers"]
    environment: dict[str, str] = {}
    for variable in container_spec["env"]:
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        value = f"<{source['key']}>" if source else variable["value"]
        environment[variable["name"]] = re.sub(
            r"\$\((\w+)\)", lambda name: environment.get(name[1], name[0]), value
        )
    return environment


def services() -> list[Object]:
    return of_kind(render(VALUES), "Deployment", "StatefulSet")


def test_kafka_advertises_the_address_that_the_services_use() -> None:
    feedback = next(
        item for item in of_kind(render(VALUES), "StatefulSet") if component(item) == "feedback"
    )
    environment = {
        item["name"]: item.get("value")
        for item in feedback["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    known_as = container("kafka")["args"][container("kafka")["args"].index("--known-as") + 1]
    assert environment["TW_FEEDBACK_KAFKA_BOOTSTRAP"] == f"{known_as}:9092"
    assert (
        environment["TW_FEEDBACK_REPLICATION_FACTOR"],
        environment["TW_FEEDBACK_MIN_INSYNC_REPLICAS"],
    ) == (
        "1",
        "1",
    )


def test_probes_and_stop_hooks_call_programs_of_the_image() -> None:
    """The packages of this machine are those of the image."""
    image, here = str(layout.IMAGE.programs.packages), str(find_installed().packages)
    postgres = container("postgres")
    for command in (
        postgres["readinessProbe"]["exec"]["command"],
        postgres["lifecycle"]["preStop"]["exec"]["command"],
    ):
        assert command[0].startswith(image)
        assert Path(command[0].replace(image, here)).exists(), command[0]
    assert postgres["lifecycle"]["preStop"]["exec"]["command"][-1] == f"{layout.DATA}/data"
    assert container("valkey")["readinessProbe"]["exec"]["command"][-1] == ping.__name__
    assert str(ping.PASSWORD) == f"{layout.SECRETS}/valkey-password"


def test_values_of_an_evaluation_are_applied() -> None:
    objects = render(
        VALUES,
        "evaluation.storageClass=fast",
        "evaluation.sizes.kafka=9Gi",
        "evaluation.nodeSelector.pool=cpu",
    )
    specs = {component(item): item["spec"] for item in of_kind(objects, "StatefulSet")}
    for store in PREPARE:
        (claim,) = specs[store]["volumeClaimTemplates"]
        assert claim["spec"]["storageClassName"] == "fast"
        assert specs[store]["template"]["spec"]["nodeSelector"] == {"pool": "cpu"}
    assert (
        specs["kafka"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
        == "9Gi"
    )


def test_without_an_evaluation_its_objects_are_absent() -> None:
    objects = render("existing-values.yaml")
    assert not [item for item in objects if component(item) in {*PREPARE, "evaluation"}]
