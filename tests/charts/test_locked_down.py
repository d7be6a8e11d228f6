"""OpenShift and clusters whose administrators create accounts, roles and ids."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.charts.rendering import Object, containers, of_kind, pods, refusal, render

OPENSHIFT = "openshift-values.yaml"
# Kinds of volumes that the SCC restricted-v2 admits.
VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
IDS = {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"}
SIDECAR = {"name": "proxy", "image": "registry.example/proxy:1"}


def fields(value: Any) -> Iterator[str]:
    """Yield every key of an object, also of objects in texts of JSON (RayJob, InferenceService)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from fields(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from fields(inner)
    elif isinstance(value, str) and value.startswith("{"):
        try:
            yield from fields(json.loads(value))
        except ValueError:
            return


def own_policy(objects: Any, name: str) -> Any:
    (found,) = [
        item["spec"]
        for item in of_kind(objects, "NetworkPolicy")
        if item["metadata"]["name"] == name
    ]
    return found


def test_no_object_for_openshift_sets_an_id() -> None:
    objects = render(
        OPENSHIFT,
        "training.enabled=true",
        "ray.mode=kuberay",
        "serving.mode=kserve",
        "serving.kserve.runtime=predictor",
        "serving.existingSecret=model-server",
    )
    assert {"ServingRuntime", "CronJob", "ConfigMap"} <= {item["kind"] for item in objects}
    assert IDS & set(fields(list(objects))) == set()
    # The same question finds the ids of other files.
    assert {"runAsUser", "runAsGroup", "fsGroup"} <= set(
        fields(list(render("existing-values.yaml")))
    )


def test_pods_for_openshift_are_admitted_by_restricted_v2() -> None:
    objects = render(OPENSHIFT)
    for name, pod in pods(objects).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for volume in spec.get("volumes", ()):
            assert {kind for kind in volume if kind != "name"} <= VOLUMES, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for container in containers(objects):
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not [port for port in container.get("ports", ()) if "hostPort" in port]


def test_the_route_of_openshift_has_the_certificate_of_the_router_and_no_short_timeout() -> None:
    (ingress,) = of_kind(render(OPENSHIFT), "Ingress")
    assert ingress["spec"]["ingressClassName"] == "openshift-default"
    assert ingress["spec"]["tls"] == [{}]
    assert ingress["metadata"]["annotations"] == {"haproxy.router.openshift.io/timeout": "1h"}


def test_policies_for_openshift_name_its_dns_its_router_and_its_prometheus() -> None:
    objects = render(OPENSHIFT)
    (dns,) = own_policy(objects, "tw-thumbwheel")["egress"]
    assert [peer["namespaceSelector"]["matchLabels"] for peer in dns["to"]] == [
        {"kubernetes.io/metadata.name": "openshift-dns"}
    ]
    assert {"port": 5353, "protocol": "UDP"} in dns["ports"]
    ingress = own_policy(objects, "tw-thumbwheel-gateway")["ingress"]
    spaces = [
        peer["namespaceSelector"]["matchLabels"]
        for rule in ingress
        for peer in rule["from"]
        if "namespaceSelector" in peer
    ]
    assert spaces == [
        {"policy-group.network.openshift.io/ingress": ""},
        {"kubernetes.io/metadata.name": "openshift-user-workload-monitoring"},
    ]


@pytest.fixture(scope="module")
def managed() -> list[Object]:
    """Return a release whose accounts and roles an administrator has created."""
    return list(
        render(
            "ray-values.yaml",
            "serviceAccount.create=false",
            "serviceAccount.name=chat",
            "rbac.create=false",
            "nameOverride=chatbot",
            "serving.mode=kserve",
            "serving.kserve.runtime=predictor",
            json_sets=(
                "extraObjects="
                + json.dumps(
                    [
                        {
                            "apiVersion": "v1",
                            "kind": "ConfigMap",
                            "metadata": {
                                "name": '{{ include "thumbwheel.name" (list . "extra") }}',
                                "labels": {"app.kubernetes.io/component": "extra"},
                            },
                            "data": {"of": "{{ .Release.Name }}"},
                        },
                        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: text, labels: "
                        "{app.kubernetes.io/component: extra}}\n",
                    ]
                ),
                "services.session.extraContainers=" + json.dumps([SIDECAR]),
                "services.session.extraInitContainers="
                + json.dumps([{**SIDECAR, "securityContext": {"readOnlyRootFilesystem": False}}]),
            ),
        )
    )


def test_accounts_and_roles_of_the_administrator_are_used(managed: list[Object]) -> None:
    assert not of_kind(managed, "ServiceAccount", "Role", "RoleBinding")
    found = pods(managed)
    accounts = {name: pod["spec"].get("serviceAccountName") for name, pod in found.items()}
    assert accounts["gateway/Deployment"] == accounts["feedback/StatefulSet"] == "chat"
    assert accounts["generator/Deployment"] == "tw-chatbot-generator"
    assert accounts["launcher/CronJob"] == "tw-chatbot-launcher"
    default = pods(render("ray-values.yaml", "serviceAccount.create=false"))
    assert default["gateway/Deployment"]["spec"]["serviceAccountName"] == "default"


def test_names_are_overridden_and_labels_of_selectors_stay(managed: list[Object]) -> None:
    (session,) = [
        item
        for item in of_kind(managed, "Deployment")
        if item["metadata"]["name"] == "tw-chatbot-session"
    ]
    labels = session["spec"]["selector"]["matchLabels"]
    assert labels["app.kubernetes.io/name"] == "thumbwheel"
    full = render("one-node-values.yaml", "fullnameOverride=assistant")
    assert {item["metadata"]["name"] for item in of_kind(full, "Deployment")} == {
        f"assistant-{name}"
        for name in ("gateway", "guardrail", "enhancer", "session", "generator", "review")
    } | {"assistant-predictor"}


def test_further_objects_are_templates(managed: list[Object]) -> None:
    found = {item["metadata"]["name"]: item for item in of_kind(managed, "ConfigMap")}
    assert found["tw-chatbot-extra"]["data"] == {"of": "tw"}
    assert "text" in found


def test_further_containers_are_restricted_and_leave_the_order(managed: list[Object]) -> None:
    spec = pods(managed)["session/Deployment"]["spec"]
    assert [each["name"] for each in spec["containers"]] == ["session", "proxy"]
    assert spec["containers"][1]["securityContext"] == spec["containers"][0]["securityContext"]
    first, *rest = spec["initContainers"]
    assert first["name"] == "proxy"
    assert rest
    assert first["securityContext"] == {
        **spec["containers"][0]["securityContext"],
        "readOnlyRootFilesystem": False,
    }


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("podSecurityContext.runAsUser=0", "runAsUser"),
        ("podSecurityContext.runAsNonRoot=false", "runAsNonRoot"),
        (
            "services.session.extraContainers[0].name=x,services.session.extraContainers[0].image=x,"
            "services.session.extraContainers[0].securityContext.privileged=true",
            "privileged",
        ),
        ("fullnameOverride=Assistant", "fullnameOverride"),
    ],
)
def test_values_outside_the_restricted_standard_are_refused(setting: str, named: str) -> None:
    assert named in refusal("existing-values.yaml", setting)
