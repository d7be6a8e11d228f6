"""Postgres by URLs or by parts, from secrets as CloudNativePG and External Secrets write them."""

from collections.abc import Mapping, Sequence

import pytest

from infra.service_table import service_table
from tests.charts.rendering import Object, component, of_kind, outside_ports, pods, render

DATABASES = service_table().databases
CLOUD_NATIVE_PG = (
    "database.existingSecret=chat-db-app",
    "database.keys.host=host",
    "database.keys.port=port",
    "database.keys.name=dbname",
    "database.sslMode=require",
    "database.services.feedback.existingSecret=external",
    "database.services.feedback.host=feedback.example",
    "database.services.feedback.port=6432",
    "database.services.feedback.name=feedback",
    "database.services.feedback.sslMode=verify-full",
    "database.services.feedback.keys.username=pg-user",
    "database.services.feedback.keys.host=",
    "database.services.feedback.keys.port=",
    "database.services.feedback.keys.name=",
)
URLS = ("database.urlKeys.session=uri", "database.services.review.existingSecret=review-db-app")


def settings_of(objects: Sequence[Object], service: str) -> list[Mapping[str, str]]:
    """Return the database settings of each container of a service, `secret/key` for a reference."""
    (pod,) = [pod for name, pod in pods(objects).items() if name.split("/")[0] == service]
    prefix = f"TW_{service.upper()}_DATABASE_"
    found = []
    for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
        settings = {}
        for item in container.get("env", ()):
            if item["name"].startswith(prefix):
                reference = item.get("valueFrom", {}).get("secretKeyRef")
                settings[item["name"].removeprefix(prefix)] = (
                    "/".join(reference[key] for key in ("name", "key"))
                    if reference
                    else item["value"]
                )
        if settings:
            found.append(settings)
    return found


def test_parts_come_from_the_secret_of_an_operator() -> None:
    objects = render("existing-values.yaml", *CLOUD_NATIVE_PG)
    for service in set(DATABASES) - {"feedback"}:
        containers = settings_of(objects, service)
        assert len(containers) >= 2, "the migration and the service"
        for found in containers:
            assert found == {
                "HOST": "chat-db-app/host",
                "PORT": "chat-db-app/port",
                "NAME": "chat-db-app/dbname",
                "USERNAME": "chat-db-app/username",
                "PASSWORD": "chat-db-app/password",
                "SSL_MODE": "require",
            }


def test_values_of_one_service_replace_the_common_ones() -> None:
    for found in settings_of(render("existing-values.yaml", *CLOUD_NATIVE_PG), "feedback"):
        assert found == {
            "HOST": "feedback.example",
            "PORT": "6432",
            "NAME": "feedback",
            "USERNAME": "external/pg-user",
            "PASSWORD": "external/password",
            "SSL_MODE": "verify-full",
        }


def test_port_beside_the_host_is_permitted() -> None:
    policies = {
        component(item): item["spec"]
        for item in of_kind(render("existing-values.yaml", *CLOUD_NATIVE_PG), "NetworkPolicy")
    }
    assert 6432 in outside_ports(policies["feedback"])
    assert 6432 not in outside_ports(policies["session"])


def test_urls_have_the_names_of_the_values() -> None:
    objects = render("existing-values.yaml", *URLS)
    names = {service: f"databases/{service}" for service in DATABASES}
    names |= {"session": "databases/uri", "review": "review-db-app/review"}
    for service, name in names.items():
        for found in settings_of(objects, service):
            assert found == {"URL": name}


AUTHORITY = {
    "name": "database",
    "secret": {"secretName": "chat-db-ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]},
}


@pytest.mark.parametrize("more", [(), ("trustBundle.configMap=company",)])
def test_clients_of_postgres_alone_read_its_authority(more: Sequence[str]) -> None:
    sets = (*CLOUD_NATIVE_PG, "database.sslMode=verify-full", "database.caSecret=chat-db-ca")
    objects = render("existing-values.yaml", *sets, *more, "backup.enabled=true")
    clients = set()
    for name, pod in pods(objects).items():
        spec = pod["spec"]
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            found = [item for item in container.get("env", ()) if item["name"] == "PGSSLROOTCERT"]
            connects = any("_DATABASE_" in item["name"] for item in container.get("env", ()))
            assert [item["value"] for item in found] == ["/database/ca.crt"] * connects
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            assert ("/database" in mounts) == connects
            if connects:
                clients.add(name.split("/")[0])
        assert (AUTHORITY in spec.get("volumes", ())) == (name.split("/")[0] in clients)
    assert clients == {*DATABASES, "backup"}
