"""Public endpoints: the Service, the Ingress, and the routes of the Gateway API.

Routes are compared with the published definitions of the Gateway API; their CEL rules are checked
on a real API server in tests/infra/run/deploy/test_admission.py.
"""

import copy
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest
import yaml

from infra.install.definitions.installation import find_installed
from infra.machine.servers.errors import ServerError
from tests.charts.rendering import Object, of_kind, render

VALUES = "everything-values.yaml"
ROUTES = (
    "gatewayApi.http.enabled=true",
    "gatewayApi.http.gateway=public",
    "gatewayApi.grpc.enabled=true",
    "gatewayApi.grpc.gateway=public",
)


def closed(schema: Any) -> Any:
    """Return a schema that refuses fields which it does not name, as the API server does."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    if "properties" in schema and "additionalProperties" not in schema:
        inner["additionalProperties"] = False
    return inner


@pytest.fixture(scope="module")
def definitions() -> Mapping[str, Any]:
    """Return the schema of version v1 by kind."""
    try:
        folder = find_installed() / "gateway-api"
    except ServerError as error:
        pytest.skip(str(error))
    found = {}
    for file in folder.glob("*.yaml"):
        spec = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]
        (version,) = [each for each in spec["versions"] if each["name"] == "v1"]
        schema = version["schema"]["openAPIV3Schema"]
        # The definition leaves metadata to Kubernetes.
        properties = {**schema["properties"], "metadata": {"type": "object"}}
        found[spec["names"]["kind"]] = closed({**schema, "properties": properties})
    return found


def routes(*sets: str, json_sets: tuple[str, ...] = ()) -> dict[str, Object]:
    objects = render("existing-values.yaml", *ROUTES, *sets, json_sets=json_sets)
    return {item["kind"]: item for item in of_kind(objects, "HTTPRoute", "GRPCRoute")}


@pytest.mark.parametrize("kind", ["HTTPRoute", "GRPCRoute"])
def test_routes_have_only_fields_of_the_gateway_api(
    kind: str, definitions: Mapping[str, Any]
) -> None:
    (route,) = of_kind(render(VALUES), kind)
    jsonschema.validate(route, definitions[kind])
    wrong = copy.deepcopy(dict(route))
    wrong["spec"]["rules"][0]["timeout"] = {}
    with pytest.raises(jsonschema.ValidationError, match="timeout"):
        jsonschema.validate(wrong, definitions[kind])


def test_each_route_has_its_own_parent_hosts_annotations_and_port() -> None:
    found = {item["kind"]: item for item in of_kind(render(VALUES), "HTTPRoute", "GRPCRoute")}
    parent = {"name": "public", "namespace": "gateways", "sectionName": "https"}
    for kind, host, port in (
        ("HTTPRoute", "chat.example", 80),
        ("GRPCRoute", "grpc.chat.example", 50051),
    ):
        spec = found[kind]["spec"]
        assert spec["parentRefs"] == [parent]
        assert spec["hostnames"] == [host]
        (rule,) = spec["rules"]
        assert rule["backendRefs"] == [{"name": "tw-thumbwheel-public", "port": port}]
    assert found["HTTPRoute"]["metadata"]["annotations"] == {"example.com/note": "here"}
    assert "annotations" not in found["GRPCRoute"]["metadata"]


def test_answers_have_no_timeout_at_the_gateway_unless_the_value_is_null() -> None:
    """A stream of server-sent events is one request of minutes."""
    (rule,) = routes("gatewayApi.grpc.sectionName=grpc", "gatewayApi.http.sectionName=http")[
        "HTTPRoute"
    ]["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    without = routes(
        "gatewayApi.grpc.sectionName=grpc",
        "gatewayApi.http.sectionName=http",
        "gatewayApi.http.timeouts.request=null",
        "gatewayApi.http.timeouts.backendRequest=null",
    )["HTTPRoute"]
    assert "timeouts" not in without["spec"]["rules"][0]


@pytest.mark.parametrize(
    "sets",
    [
        ("gatewayApi.http.hosts={chat.example}", "gatewayApi.grpc.hosts={grpc.example}"),
        ("gatewayApi.http.hosts={*.chat.example}", "gatewayApi.grpc.hosts={chat.example}"),
        ("gatewayApi.http.sectionName=https", "gatewayApi.grpc.sectionName=grpc"),
        ("gatewayApi.grpc.gateway=other",),
        ("gatewayApi.grpc.namespace=gateways",),
    ],
    ids=["other hosts", "a host above a wildcard", "other listeners", "Gateway", "namespace"],
)
def test_routes_without_a_common_host_on_a_listener_are_accepted(sets: tuple[str, ...]) -> None:
    assert routes(*sets).keys() == {"HTTPRoute", "GRPCRoute"}


def test_the_service_has_the_fields_of_its_load_balancer() -> None:
    (public,) = [
        item["spec"]
        for item in of_kind(render(VALUES), "Service")
        if item["metadata"]["name"] == "tw-thumbwheel-public"
    ]
    assert (public["type"], public["loadBalancerClass"]) == ("LoadBalancer", "example.com/internal")
    assert public["loadBalancerSourceRanges"] == ["192.0.2.0/24"]
    assert public["externalTrafficPolicy"] == "Local"
    (plain,) = [
        item["spec"]
        for item in of_kind(render("existing-values.yaml"), "Service")
        if item["metadata"]["name"] == "tw-thumbwheel-public"
    ]
    assert plain.keys() == {"type", "selector", "ports"}


@pytest.mark.parametrize(
    ("tls", "expected"),
    [
        ("ingress.tlsSecret=chat", [{"hosts": ["chat.example"], "secretName": "chat"}]),
        ("ingress.tls=openshift", [{}]),
        ("ingress.tls=controller", None),
        ("ingress.tls=none", None),
    ],
)
def test_the_certificate_of_the_ingress(tls: str, expected: object) -> None:
    (ingress,) = of_kind(
        render("existing-values.yaml", "ingress.enabled=true", "ingress.host=chat.example", tls),
        "Ingress",
    )
    assert ingress["spec"].get("tls") == expected
