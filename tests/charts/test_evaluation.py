"""The stores of an evaluation: what they are told, what they keep, and that the services meet the
very same ones.
"""

import base64
import re
from pathlib import Path
from typing import Any

import pytest

from infra.evaluation_stores import layout, ping
from infra.evaluation_stores.preparation import DATABASES, PREPARE
from infra.servers.installation import find_installed
from infra.servers.postgres import USER
from infra.servers.seaweedfs import ACCESS_KEY
from tests.charts.rendering import Object, component, of_kind, render

VALUES = "evaluation-values.yaml"


def pod(store: str) -> Any:
    (found,) = [each for each in of_kind(render(VALUES), "StatefulSet") if component(each) == store]
    return found["spec"]["template"]["spec"]


def container(store: str) -> Any:
    (only,) = pod(store)["containers"]
    return only


def secret() -> dict[str, str]:
    (found,) = [
        each for each in of_kind(render(VALUES), "Secret") if component(each) == "evaluation"
    ]
    assert found["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


@pytest.mark.parametrize("store", PREPARE)
def test_a_store_runs_in_its_own_place_with_its_own_secret_alone(store: str) -> None:
    assert container(store)["args"][:2] == ["infra.evaluation_stores", store]
    mounts = {mount["name"]: mount["mountPath"] for mount in container(store)["volumeMounts"]}
    assert mounts["data"] == layout.DATA
    assert mounts.get("secrets", layout.SECRETS) == layout.SECRETS
    assert [port["containerPort"] for port in container(store)["ports"]] == [layout.PORTS[store][0]]
    mounted = [
        item["key"]
        for each in pod(store)["volumes"]
        for item in each.get("secret", {}).get("items", ())
    ]
    assert len(mounted) == (store != "kafka")
    assert set(mounted) <= set(secret())


def test_a_secret_holds_passwords_and_no_urls() -> None:
    keys = secret()
    assert keys.pop("access-key") == ACCESS_KEY
    assert set(keys) == {"postgres-password", "valkey-password", "secret-key"}
    assert len(set(keys.values())) == 3
    assert min(map(len, keys.values())) >= 32


@pytest.mark.parametrize("service", DATABASES)
def test_the_urls_of_a_service_get_the_passwords_that_the_stores_start_with(service: str) -> None:
    """By Kubernetes, which knows a variable only below the one that it takes it from."""
    told = expanded(service)
    driver = "pg8000" if service == "feedback" else "asyncpg"
    url = f"postgresql+{driver}://{USER}:<postgres-password>@tw-thumbwheel-postgres:5432/{service}"
    assert told[f"TW_{service.upper()}_DATABASE_URL"] == url
    if service == "gateway":
        assert (
            told["TW_GATEWAY_VALKEY_URL"] == "valkey://:<valkey-password>@tw-thumbwheel-valkey:6379"
        )


def expanded(service: str) -> dict[str, str]:
    """As Kubernetes does it, in the order of the variables; a key of the secret stands for what is
    there.
    """
    (only,) = next(each for each in services() if component(each) == service)["spec"]["template"][
        "spec"
    ]["containers"]
    told: dict[str, str] = {}
    for variable in only["env"]:
        source = variable.get("valueFrom", {}).get("secretKeyRef")
        value = f"<{source['key']}>" if source else variable["value"]
        told[variable["name"]] = re.sub(
            r"\$\((\w+)\)", lambda name: told.get(name[1], name[0]), value
        )
    return told


def services() -> list[Object]:
    return of_kind(render(VALUES), "Deployment", "StatefulSet")


def test_kafka_sends_clients_to_where_the_services_look_for_it() -> None:
    feedback = next(
        each for each in of_kind(render(VALUES), "StatefulSet") if component(each) == "feedback"
    )
    told = {
        each["name"]: each.get("value")
        for each in feedback["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    known_as = container("kafka")["args"][container("kafka")["args"].index("--known-as") + 1]
    assert told["TW_FEEDBACK_KAFKA_BOOTSTRAP"] == f"{known_as}:9092"
    assert (told["TW_FEEDBACK_REPLICATION_FACTOR"], told["TW_FEEDBACK_MIN_INSYNC_REPLICAS"]) == (
        "1",
        "1",
    )


def test_probes_and_the_stop_call_programs_that_are_in_the_image() -> None:
    """By the packages of this machine, which are the image's too."""
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


def test_values_of_an_evaluation_arrive() -> None:
    objects = render(
        VALUES,
        "evaluation.storageClass=fast",
        "evaluation.sizes.kafka=9Gi",
        "evaluation.nodeSelector.pool=cpu",
    )
    specs = {component(each): each["spec"] for each in of_kind(objects, "StatefulSet")}
    for store in PREPARE:
        (claim,) = specs[store]["volumeClaimTemplates"]
        assert claim["spec"]["storageClassName"] == "fast"
        assert specs[store]["template"]["spec"]["nodeSelector"] == {"pool": "cpu"}
    assert (
        specs["kafka"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
        == "9Gi"
    )


def test_without_an_evaluation_there_is_none_of_it() -> None:
    objects = render("existing-values.yaml")
    assert not [each for each in objects if component(each) in {*PREPARE, "evaluation"}]
