"""Properties of every rendered object for all values.

Objects are safe, reach each other, and have environments that the services accept.
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from infra.docs.settings import settings_class
from infra.service_table import service_table
from services.chassis.settings import load_settings
from services.generator.kubernetes.inference_object import TEMPLATE_KEY
from tests.charts.rendering import (
    CHART,
    FILES,
    VALUES,
    Object,
    component,
    containers,
    every_file,
    helm,
    of_kind,
    parse,
    pods,
    render,
    runtime_containers,
)

SERVICES = service_table().names
GRPC_SERVICES = {service.name for service in service_table().grpc}
# Values of the keys of secrets.
SECRETS = {
    "principal-key": "p" * 16,
    "master-key": "ab" * 32,
    "accepted-master-keys": "ab" * 32,
    "valkey-secret": "v" * 16,
    "model-server-key": "m" * 16,
    "url": "valkey://valkey:6379",
    # Those that CloudNativePG writes.
    "host": "chat-db-rw",
    "port": "5432",
    "dbname": "app",
    "username": "app",
    "password": "p/@:?#",
    **{
        service.name: f"{service.database.driver}://u:p@postgres/{service.name}"
        for service in service_table().grpc
        if service.database
    },
}

WITH_VLLM = ("gpu-values.yaml", "single-gpu-values.yaml", "eight-gpus-values.yaml")
WITHOUT_SERVER = "external-values.yaml"
by_file = pytest.mark.parametrize("values", FILES)


def environment_of(container: Any) -> dict[str, str]:
    found = {}
    for variable in container["env"]:
        key = variable.get("valueFrom", {}).get("secretKeyRef", {}).get("key")
        found[variable["name"]] = SECRETS.get(key, key) if key else variable["value"]
    return found


def is_from_secret(variable: Any, container: Any) -> bool:
    """Return True if the value, or the password in a URL, comes from a secret."""
    if "valueFrom" in variable:
        return "secretKeyRef" in variable["valueFrom"]
    taken = re.fullmatch(r"[\w+]+://\w*:\$\((\w+)\)@[^@]+", variable["value"])
    return taken is not None and any(
        item["name"] == taken[1] and "secretKeyRef" in item["valueFrom"]
        for item in container["env"]
    )


@by_file
def test_every_pod_passes_the_restricted_standard(values: str) -> None:
    objects = render(values)
    for name, pod in pods(objects).items():
        spec = pod["spec"]
        # KubeRay's autoscaler requests pods.
        scales = name == "training/RayJob" and values == "ray-values.yaml"
        assert spec["automountServiceAccountToken"] is scales, name
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {
            kind for volume in spec.get("volumes", ()) for kind in volume if kind != "name"
        } <= {
            "emptyDir",
            "persistentVolumeClaim",
            "projected",
            "secret",
            *(("configMap", "projected") if name == "launcher/CronJob" else ()),
            *(("configMap",) if values == "existing-values.yaml" else ()),
            *(("configMap",) if name in ("corpus/CronJob", "guardrail/Deployment") else ()),
        }
    for container in containers(objects):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"]["cpu"]


@by_file
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_accepts_its_environment(
    values: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings class itself refuses unknown settings."""
    for name in [name for name in os.environ if name.startswith("TW_")]:
        monkeypatch.delenv(name)
    all_containers = (*containers(render(values)), *runtime_containers(render(values)))
    mine = [one for one in all_containers if one.get("args", [""])[0] == f"services.{service}"]
    assert mine or (service == "predictor" and values in (*WITH_VLLM, WITHOUT_SERVER)), (
        "only vLLM and an external model replace the predictor"
    )
    for container in mine:
        for name, value in environment_of(container).items():
            monkeypatch.setenv(name, value)
        settings: Any = load_settings(settings_class(service))
        assert settings.host == "0.0.0.0"
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        assert ports.get("grpc", settings.port) == settings.port
        assert ports.get("metrics", getattr(settings, "metrics_port", 0)) == getattr(
            settings, "metrics_port", 0
        )


@by_file
def test_probes_of_services_use_the_metrics_port(values: str) -> None:
    """Finding S-02: clients of the gRPC port can occupy its calls, and probes would fail."""
    found = [one for one in containers(render(values)) if one.get("name") in GRPC_SERVICES]
    assert {one["name"] for one in found} == GRPC_SERVICES
    for container in found:
        for probe in ("startupProbe", "readinessProbe"):
            assert container[probe]["httpGet"] == {"path": "/health", "port": "metrics"}


@by_file
def test_secret_values_come_from_secrets(values: str) -> None:
    for container in containers(render(values)):
        for variable in container.get("env", ()):
            if re.search(
                "(?<!TLS_)(?<!IDENTITY_)KEY$|MASTER_KEYS$|SECRET$|PASSWORD$|DATABASE_URL$|VALKEY_URL$",
                variable["name"],
            ):
                assert is_from_secret(variable, container), variable["name"]


@by_file
def test_every_called_address_is_a_service_with_that_port(values: str) -> None:
    objects = render(values)
    addresses = {
        (item["metadata"]["name"], port["port"])
        for item in of_kind(objects, "Service")
        for port in item["spec"]["ports"]
    }
    targets = set()
    for container in containers(objects):
        for value in [
            variable.get("value", "") for variable in container.get("env", ())
        ] + container.get("args", []):
            targets |= set(re.findall(r"(?:dns:///|http://|=)(tw-thumbwheel-[a-z-]+):(\d+)", value))
    assert {(name, int(port)) for name, port in targets} <= addresses
    assert len(targets) >= (6 if values == WITHOUT_SERVER else 7)


@by_file
def test_services_behind_the_gateway_are_headless_to_spread_calls(values: str) -> None:
    grpc = [item for item in of_kind(render(values), "Service") if component(item) != "predictor"]
    headless = {component(item) for item in grpc if item["spec"].get("clusterIP") == "None"}
    assert headless == GRPC_SERVICES


@by_file
def test_selectors_match_exactly_their_own_pods(values: str) -> None:
    objects = render(values)
    labels = {
        name: pod["metadata"]["labels"]
        for name, pod in pods(objects).items()
        if not name.endswith("Job")
    }
    # The labels that KServe copies to the pods of a version.
    for item in of_kind(objects, "ConfigMap"):
        if TEMPLATE_KEY in item["data"]:
            template = json.loads(item["data"][TEMPLATE_KEY])
            labels["predictor/InferenceService"] = template["metadata"]["labels"]
    for item in of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        selector = item["spec"]["selector"]["matchLabels"]
        found = [name for name, has in labels.items() if selector.items() <= has.items()]
        assert [name.split("/")[0] for name in found] == [component(item)]


@by_file
def test_the_grace_period_of_a_pod_exceeds_its_shutdown_time(values: str) -> None:
    for name, pod in pods(render(values)).items():
        for container in pod["spec"]["containers"]:
            if container["name"] in SERVICES:
                waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
                settings, prefix = environment_of(container), f"TW_{container['name'].upper()}_"
                drains = float(settings[f"{prefix}DRAIN_SECONDS"]) + float(
                    settings.get(f"{prefix}LAME_DUCK_SECONDS", 0)
                )
                drains += float(settings.get(f"{prefix}HTTP_DRAIN_SECONDS", 0))
                assert pod["spec"]["terminationGracePeriodSeconds"] > waits + drains, name


@by_file
def test_connections_of_an_ending_gateway_are_renewed_before_it_closes(values: str) -> None:
    """A call that starts on a connection while its server closes fails.

    gRPC clients do not retry such a call.
    """
    for pod in pods(render(values)).values():
        for container in pod["spec"]["containers"]:
            if container["name"] == "gateway":
                settings = environment_of(container)
                waits = container["lifecycle"]["preStop"]["sleep"]["seconds"]
                waits += float(settings["TW_GATEWAY_LAME_DUCK_SECONDS"])
                assert waits > 1.1 * float(settings["TW_GATEWAY_CONNECTION_AGE_SECONDS"])


@by_file
def test_the_http_drain_time_equals_that_of_calls(
    values: str,
) -> None:
    """The default of the gateway is two seconds, so upgrades would cut off longer answers."""
    gateway = next(one for one in containers(render(values)) if one["name"] == "gateway")
    settings = environment_of(gateway)
    assert settings["TW_GATEWAY_HTTP_DRAIN_SECONDS"] == settings["TW_GATEWAY_DRAIN_SECONDS"]


@every_file(
    "everything-values.yaml", "evaluation-values.yaml", "kserve-values.yaml", "ray-values.yaml"
)
def test_names_are_short_and_unique(values: str) -> None:
    objects = render(values, release="a-name-as-long-as-helm-lets-anybody-choose-one-53-lon")
    names = [(item["apiVersion"], item["kind"], item["metadata"]["name"]) for item in objects]
    assert len(set(names)) == len(names)
    assert [name for *_, name in names if len(name) > 63] == []


@by_file
def test_temporary_folders_have_a_size_limit(values: str) -> None:
    """Finding S-29: a pod could fill the disk of its node."""
    objects = render(values)
    specs = [pod["spec"] for pod in pods(objects).values()]
    specs += [item["spec"] for item in of_kind(objects, "ServingRuntime")]
    folders = [
        volume["emptyDir"]
        for spec in specs
        for volume in spec.get("volumes", ())
        if volume["name"] == "tmp"
    ]
    assert len(folders) >= len(GRPC_SERVICES)
    assert [folder for folder in folders if "sizeLimit" not in folder] == []


INGRESS = "ingress.enabled=true,ingress.host=chat.example"


@pytest.mark.parametrize(
    ("setting", "url", "secure"),
    [
        (f"{INGRESS},ingress.tlsSecret=chat", "https://chat.example/", None),
        (f"{INGRESS},ingress.tls=controller", "https://chat.example/", None),
        (f"{INGRESS},ingress.tls=none", "http://chat.example/", "false"),
    ],
)
def test_an_ingress_has_tls_unless_a_value_says_otherwise(
    setting: str, url: str, secure: str | None
) -> None:
    values = str(VALUES / "existing-values.yaml")
    words = ("install", "tw", str(CHART), "--dry-run=client", "-f", values, "--set", setting)
    result = helm(*words)
    assert url in result.stdout.split("NOTES:")[1].split(), result.stderr
    gateway = pods(render("existing-values.yaml", setting))["gateway/Deployment"]
    environment = environment_of(gateway["spec"]["containers"][0])
    assert environment.get("TW_GATEWAY_PAGE_SESSION_SECURE") == secure


def everywhere(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from everywhere(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from everywhere(inner)
    elif isinstance(value, str):
        yield value


def test_values_are_applied() -> None:
    objects = render("everything-values.yaml")
    deployments: dict[str, Object] = {
        component(item): item for item in of_kind(objects, "Deployment", "StatefulSet")
    }
    gateway = deployments["gateway"]["spec"]
    assert "replicas" not in gateway, "set by the autoscaler"
    environment = environment_of(gateway["template"]["spec"]["containers"][0])
    assert environment["TW_GATEWAY_MAX_TURNS"] == "300"
    assert environment["TW_GATEWAY_COALESCE_SECONDS"] == "0.05"
    assert environment["TW_GATEWAY_QUOTA_OVERRIDES"] == '{"acme":{"user_tokens_per_day":1000000}}'
    assert environment["GRPC_VERBOSITY"] == "ERROR"
    generator = environment_of(
        deployments["generator"]["spec"]["template"]["spec"]["containers"][0]
    )
    assert generator["TW_GENERATOR_PRESETS"] == '{"code":{"top_p":0.2}}'
    assert gateway["template"]["spec"]["containers"][0]["image"].startswith(
        "registry.example/thumbwheel/thumbwheel-services@sha256:"
    )
    assert deployments["feedback"]["spec"]["replicas"] == 3
    claim = deployments["feedback"]["spec"]["volumeClaimTemplates"][0]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == (
        "fast",
        "20Gi",
    )
    guardrail = deployments["guardrail"]["spec"]["template"]
    assert guardrail["spec"]["nodeSelector"] == {"pool": "cpu"}
    assert guardrail["metadata"]["annotations"]["note"] == "here"
    assert all(item["metadata"]["labels"]["team"] == "chat" for item in objects)
    assert {
        "Ingress",
        "HTTPRoute",
        "GRPCRoute",
        "PodMonitor",
        "PrometheusRule",
        "HorizontalPodAutoscaler",
    } <= {item["kind"] for item in objects}
    assert "Secret" not in {item["kind"] for item in objects}
    assert "small-1" in " ".join(everywhere(deployments["session"]))


def test_gitops_renderings_are_equal_without_a_cluster() -> None:
    words = ("template", "tw", str(CHART), "-f", str(VALUES / "gitops-values.yaml"))
    first, second = helm(*words), helm(*words)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert not of_kind(parse(first.stdout), "Secret")


@pytest.mark.parametrize("values", ["existing-values.yaml", "ray-values.yaml"])
def test_components_with_outgoing_calls_mount_only_the_trust_bundle(values: str) -> None:
    objects = render(
        values, "trustBundle.configMap=company", "trustBundle.key=all.pem", "training.enabled=true"
    )
    expected = GRPC_SERVICES | (
        {"training"} if values == "existing-values.yaml" else {"training", "ray-worker"}
    )
    for name, pod in pods(objects).items():
        mounted = [volume for volume in pod["spec"].get("volumes", ()) if volume["name"] == "trust"]
        named = {
            "configMap": {"name": "company", "items": [{"key": "all.pem", "path": "all.pem"}]},
            "name": "trust",
        }
        assert mounted in ([], [named])
        if name.split("/")[0] in expected:
            assert mounted, name
    for container in containers(objects):
        environment = {item["name"]: item.get("value") for item in container.get("env", ())}
        if "SSL_CERT_FILE" in environment:
            assert {"name": "trust", "mountPath": "/trust", "readOnly": True} in container[
                "volumeMounts"
            ]
            assert environment["SSL_CERT_FILE"] == "/trust/all.pem"
        if any("_DATABASE_" in name for name in environment):
            assert environment["PGSSLROOTCERT"] == "/trust/all.pem"


def test_extra_volumes_are_mounted_at_the_given_path() -> None:
    said = (
        "services.session.extraVolumes[0].name=more",
        "services.session.extraVolumes[0].emptyDir.medium=Memory",
        "services.session.extraVolumeMounts[0].name=more",
        "services.session.extraVolumeMounts[0].mountPath=/more",
    )
    found = pods(render("existing-values.yaml", *said))
    volume, mount = (
        {"name": "more", "emptyDir": {"medium": "Memory"}},
        {"name": "more", "mountPath": "/more"},
    )
    having = {
        name: pod["spec"] for name, pod in found.items() if volume in pod["spec"].get("volumes", ())
    }
    assert list(having) == ["session/Deployment"]
    (spec,) = having.values()
    for container in (*spec["containers"], *spec["initContainers"]):
        assert mount in container["volumeMounts"] or container["name"] == "model"


def test_the_service_account_has_the_annotations_of_the_values() -> None:
    (account,) = [
        item
        for item in of_kind(render("existing-values.yaml"), "ServiceAccount")
        if item["metadata"]["name"] == "tw-thumbwheel"
    ]
    assert account["metadata"]["annotations"] == {"example.com/identity": "chat"}
