"""Finding S-11: certificates of services, clients and `helm test` in all modes of `tls`."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from infra.service_table import service_table
from services.chassis.mutual_tls import DNS_SUFFIX, SPIFFE_PREFIX
from tests.charts.rendering import Object, component, mounted_secrets, of_kind, pods, render

SERVICES = {service.name for service in service_table().grpc}
FILES = {
    "tls_certificate": "/tls/tls.crt",
    "tls_key": "/tls/tls.key",
    "tls_authority": "/tls/ca.crt",
}
LOCAL, RAY = "one-node-values.yaml", "ray-values.yaml"
MODES = ["secrets", "certManager"]
every_mode = pytest.mark.parametrize("mode", MODES)


def certificates(objects: Sequence[Object]) -> dict[str, str]:
    """Return the name of the secret with the certificate by component."""
    return {name: found["secretName"] for name, found in mounted_secrets(objects, "tls").items()}


def settings_of(container: Mapping[str, Any], service: str) -> dict[str, str]:
    prefix = f"TW_{service.upper()}_"
    return {
        item["name"].removeprefix(prefix).lower(): item.get("value", "")
        for item in container["env"]
        if item["name"].startswith(prefix)
    }


@every_mode
def test_each_service_mounts_only_its_own_certificate(mode: str) -> None:
    objects = render(LOCAL, f"tls.mode={mode}")
    names = {*SERVICES, "training", "test-health"}
    assert certificates(objects) == {name: f"tw-thumbwheel-{name}-tls" for name in names}
    for name, pod in pods(objects).items():
        if (service := name.split("/")[0]) in SERVICES:
            found = settings_of(pod["spec"]["containers"][0], service)
            assert FILES.items() <= found.items()


@pytest.mark.parametrize("values", [LOCAL, RAY])
def test_only_the_pod_of_the_loop_has_the_certificate_of_training(values: str) -> None:
    objects = render(values, "tls.mode=secrets")
    holders = [name for name, secret in certificates(objects).items() if "training" in secret]
    assert holders == ["training"]
    words = [
        container["args"]
        for name, pod in pods(objects).items()
        if name.startswith("training/")
        for container in pod["spec"]["containers"]
    ]
    (args,) = words
    start = args.index("--tls")
    assert args[start + 1 : start + 4] == list(FILES.values())


@pytest.mark.parametrize("values", [LOCAL, RAY])
def test_without_tls_no_pod_has_a_certificate(values: str) -> None:
    objects = render(values, "tls.mode=none")
    assert certificates(objects) == {}
    assert "--tls" not in str(pods(objects))
    assert "TLS_CERTIFICATE" not in str(pods(objects))


def test_certificates_have_the_names_that_servers_and_clients_compare() -> None:
    objects = render(RAY, "tls.mode=certManager")
    issued = {
        item["spec"]["secretName"]: item["spec"]
        for item in of_kind(objects, "Certificate")
        if component(item) != "authority"
    }
    assert set(issued) == set(certificates(objects).values())
    for name in (*SERVICES, "training", "test-health"):
        found = issued[f"tw-thumbwheel-{name}-tls"]
        assert (found["uris"], found["dnsNames"]) == ([SPIFFE_PREFIX + name], [name + DNS_SUFFIX])
        assert {"server auth", "client auth"} <= set(found["usages"])
        assert found["privateKey"]["rotationPolicy"] == "Always"
        assert found["issuerRef"]["name"] == "tw-thumbwheel-authority"


def test_own_authority_keeps_its_key_and_a_given_issuer_replaces_it() -> None:
    objects = render(LOCAL, "tls.mode=certManager")
    (authority,) = [
        item for item in of_kind(objects, "Certificate") if component(item) == "authority"
    ]
    assert authority["spec"]["isCA"] is True
    assert authority["spec"]["privateKey"]["rotationPolicy"] == "Never"
    given = render(
        LOCAL,
        "tls.mode=certManager",
        "tls.certManager.issuer.name=chat",
        "tls.certManager.issuer.kind=ClusterIssuer",
    )
    assert not of_kind(given, "Issuer")
    assert {str(item["spec"]["issuerRef"]) for item in of_kind(given, "Certificate")} == {
        str({"group": "cert-manager.io", "kind": "ClusterIssuer", "name": "chat"})
    }


def stranger(values: str, *sets: str) -> tuple[Any, list[str]]:
    """Return the pod of the test and its arguments after the script."""
    template = pods(render(values, *sets))["test-stranger/Job"]
    return template, template["spec"]["containers"][0]["args"][1:]


def test_stranger_is_selected_by_no_policy_and_tries_grpc_ports_model_server_and_stores() -> None:
    template, words = stranger("evaluation-values.yaml")
    labels = template["metadata"]["labels"].items()
    for policy in of_kind(render("evaluation-values.yaml"), "NetworkPolicy"):
        selectors = [policy["spec"]["podSelector"]] + [
            peer["podSelector"]
            for rule in policy["spec"].get("ingress") or ()
            for peer in rule.get("from", ())
            if "podSelector" in peer
        ]
        assert not [each for each in selectors if each["matchLabels"].items() <= labels]
    inner = {service.name for service in service_table().internal}
    tried = {word.split("=")[0] for word in words if "=" in word}
    assert tried == {*inner, "predictor", "postgres", "kafka", "s3", "valkey"}
    assert "--policies" in words


def test_stranger_tries_no_model_server_of_kserve() -> None:
    """Limit of the test, as in docs/kubernetes.md."""
    _, words = stranger("kserve-values.yaml")
    tried = {word.split("=")[0] for word in words if "=" in word}
    assert {service.name for service in service_table().internal} <= tried
    assert "predictor" not in tried


def test_stranger_without_policies_tries_the_services_with_certificates() -> None:
    _, words = stranger("evaluation-values.yaml", "networkPolicies.enabled=false")
    assert {word.split("=")[0] for word in words} == {
        service.name for service in service_table().internal
    }
