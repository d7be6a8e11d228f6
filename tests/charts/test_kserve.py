"""Serving through KServe: runtimes and InferenceServices as KServe knows them, and the generator
with just the rights it needs.
"""

import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest

from services.generator.inference_object import (
    FOLDER,
    VERSION,
    inference_service,
    object_name,
    read_template,
)
from services.predictor.settings import PredictorSettings
from tests.charts.rendering import component, of_kind, refusal, render
from tests.kserve_models import NotOfKServeError, round_trip

FILES = ("kserve-values.yaml", "gpu-values.yaml")
KEDA = "serving.kserve.autoscaler=keda,serving.kserve.maxReplicas=3,serving.kserve.prometheus=http://prometheus:9090"
HPA = "serving.kserve.autoscaler=hpa,serving.kserve.maxReplicas=3"
VARIANTS = {
    "as it comes": (),
    "keda": (KEDA,),
    "hpa": (HPA,),
    "external": ("serving.kserve.autoscaler=external",),
}

every_file = pytest.mark.parametrize("values", FILES)


def one(objects: Any, kind: str, name: str) -> Any:
    (found,) = [each for each in of_kind(objects, kind) if each["metadata"]["name"] == name]
    return found


def config_map(values: str, *sets: str) -> Any:
    found = one(render(values, *sets), "ConfigMap", "tw-thumbwheel-inference-service")
    return {**found, "metadata": {**found["metadata"], "uid": "1-2-3"}}


def service_of(
    values: str, *sets: str, version: str = "nano-1.2_3", folder: str = "runs/nano-1"
) -> Any:
    """As the generator would apply it."""
    return inference_service(read_template(config_map(values, *sets)), version, folder)


def runtime_of(values: str, *sets: str) -> Any:
    (found,) = of_kind(render(values, *sets), "ServingRuntime")
    return found


def container_of(values: str, *sets: str) -> Any:
    (only,) = runtime_of(values, *sets)["spec"]["containers"]
    return only


@every_file
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_inference_service_is_as_kserve_has_it_field_by_field(values: str, variant: str) -> None:
    found = service_of(values, *VARIANTS[variant])
    assert round_trip(found, "V1beta1InferenceService") == found


@every_file
def test_a_serving_runtime_is_as_kserve_has_it_field_by_field(values: str) -> None:
    found = runtime_of(values)
    assert round_trip(found, "V1alpha1ServingRuntime") == found


@pytest.mark.parametrize(
    ("key", "value"), [("maxReplica", 2), ("maxReplicas", "2"), ("model", {"storageURI": "x"})]
)
def test_what_kserve_does_not_know_would_be_found(key: str, value: object) -> None:
    found = service_of("gpu-values.yaml")
    found["spec"]["predictor"][key] = value
    with pytest.raises(NotOfKServeError, match=key):
        round_trip(found, "V1beta1InferenceService")


@every_file
def test_an_inference_service_names_its_runtime_its_version_and_its_folder(values: str) -> None:
    found, runtime = service_of(values), runtime_of(values)
    model = found["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["modelFormat"]["name"] in {
        each["name"] for each in runtime["spec"]["supportedModelFormats"]
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


@every_file
def test_its_pods_are_those_that_policies_and_monitors_mean_and_nobody_reaches_them_from_outside(
    values: str,
) -> None:
    """KServe gives its pods the labels of the InferenceService."""
    labels = service_of(values)["metadata"]["labels"]
    assert labels["networking.kserve.io/visibility"] == "cluster-local"
    policies = {component(each): each["spec"] for each in of_kind(render(values), "NetworkPolicy")}
    for mine in (policies["network"], policies["predictor"]):
        assert mine["podSelector"]["matchLabels"].items() <= labels.items()
    (way,) = [
        rule
        for rule in policies["generator"]["egress"]
        if rule.get("ports") == [{"port": 8000, "protocol": "TCP"}]
    ]
    assert way["to"][0]["podSelector"]["matchLabels"].items() <= labels.items()
    assert [port["containerPort"] for port in container_of(values)["ports"]] == [8000]


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


def test_the_model_server_for_processors_understands_its_environment_and_has_the_place_kserve_mounts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in container_of("kserve-values.yaml")["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = PredictorSettings()
    assert (
        [str(path) for path in settings.startup_models]
        == [str(settings.models_root)]
        == ["/mnt/models"]
    )
    assert str(settings.failure_file) == "/dev/termination-log"
    assert settings.port == 8000


def test_vllm_is_served_under_the_version_and_has_its_gpu_and_its_node() -> None:
    predictor = service_of("gpu-values.yaml")["spec"]["predictor"]
    assert predictor["model"]["args"] == ["--served-model-name=nano-1.2_3"]
    assert predictor["model"]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert predictor["nodeSelector"] == {"accelerator": "gpu"}
    container = container_of("gpu-values.yaml", "serving.vllm.startupSeconds=601")
    assert {"--no-enable-log-requests", "--max-model-len=8192"} <= set(container["args"])
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 601
    assert "model" not in str(container["env"]).lower(), "a name of its own would hide the version"


@pytest.mark.parametrize("values", FILES)
def test_it_scales_on_requests_that_wait_for_this_version_alone(values: str) -> None:
    found = service_of(values, KEDA)
    assert found["metadata"]["annotations"]["serving.kserve.io/autoscalerClass"] == "keda"
    (metric,) = found["spec"]["predictor"]["autoScaling"]["metrics"]
    assert metric["external"]["metric"]["serverAddress"].startswith("http://prometheus")
    assert '"nano-1.2_3"' in metric["external"]["metric"]["query"]
    assert "waiting" in metric["external"]["metric"]["query"]


def test_the_generator_alone_asks_the_api_and_may_do_only_what_it_does() -> None:
    objects = render("kserve-values.yaml")
    accounts = {
        component(each): each["spec"]["template"]["spec"]["serviceAccountName"]
        for each in of_kind(objects, "Deployment", "StatefulSet")
    }
    assert accounts["generator"] == "tw-thumbwheel-generator"
    assert set(accounts.values()) == {"tw-thumbwheel", "tw-thumbwheel-generator"}
    role, binding = of_kind(objects, "Role")[0], of_kind(objects, "RoleBinding")[0]
    assert [each["name"] for each in binding["subjects"]] == ["tw-thumbwheel-generator"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    services, template = role["rules"]
    assert services["resources"] == ["inferenceservices"]
    assert set(services["verbs"]) == {"get", "list", "create", "patch", "delete"}
    assert (template["resourceNames"], template["verbs"]) == (
        ["tw-thumbwheel-inference-service"],
        ["get"],
    )
    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")


def test_the_token_is_in_the_generators_own_container_and_nowhere_else() -> None:
    def has_token(spec: Any) -> list[str]:
        tokens = [each["name"] for each in spec.get("volumes", ()) if "projected" in each]
        everybody = (*spec.get("initContainers", ()), *spec["containers"])
        return [
            each["name"]
            for each in everybody
            for mount in each["volumeMounts"]
            if mount["name"] in tokens
        ]

    objects = of_kind(render("kserve-values.yaml"), "Deployment", "StatefulSet")
    found = {component(each): has_token(each["spec"]["template"]["spec"]) for each in objects}
    assert {name: where for name, where in found.items() if where} == {"generator": ["generator"]}


def test_the_way_to_the_api_is_open_for_the_generator_alone_and_where_it_was_said() -> None:
    policies = {
        component(each): each["spec"]
        for each in of_kind(render("gpu-values.yaml"), "NetworkPolicy")
    }
    ways = {
        name: rule
        for name, spec in policies.items()
        for rule in spec.get("egress") or ()
        if {port["port"] for port in rule.get("ports", ())} & {443, 6443}
    }
    assert list(ways) == ["generator"]
    assert ways["generator"]["to"] == [{"ipBlock": {"cidr": "192.0.2.1/32"}}]


@every_file
def test_another_template_begins_the_generators_pods_anew(values: str) -> None:
    def mark(*sets: str) -> Any:
        (found,) = [
            each
            for each in of_kind(render(values, *sets), "Deployment")
            if component(each) == "generator"
        ]
        return found["spec"]["template"]["metadata"]["annotations"]["thumbwheel/inference-service"]

    assert mark() != mark("serving.kserve.drainSeconds=17")
    assert mark() == mark("services.gateway.replicas=2")


def test_pods_get_longer_to_end_than_an_answer_may_take() -> None:
    settings = ("shutdown.preStopSeconds=7", "serving.kserve.drainSeconds=100")
    assert (
        service_of("gpu-values.yaml", *settings)["spec"]["predictor"][
            "terminationGracePeriodSeconds"
        ]
        > 107
    )


def test_names_are_labels_of_their_own_for_every_version_and_release() -> None:
    template = read_template(config_map("kserve-values.yaml"))
    other = read_template(
        one(
            render("kserve-values.yaml", release="two"),
            "ConfigMap",
            "two-thumbwheel-inference-service",
        )
        | {"metadata": {"name": "two-thumbwheel-inference-service", "uid": "4"}}
    )
    versions = ["nano", "nano-1", "nano.1", "nano_1", "n" * 128, "n" * 127, "0"]
    names = [object_name(each, version) for each in (template, other) for version in versions]
    assert len(set(names)) == len(names)
    for name in names:
        # isvc.NAME-predictor is a label's value.
        assert len(f"isvc.{name}-predictor") <= 63
        assert name.replace("-", "").isalnum() and name[0].isalpha() and name == name.lower()
    assert object_name(template, "nano-1").startswith("tw-thumbwheel-nano-1-")


def test_without_it_there_is_none_of_it() -> None:
    kinds = {each["kind"] for each in render("evaluation-values.yaml")}
    assert not kinds & {"ServingRuntime", "Role", "RoleBinding"}
    assert "predictor" in {
        component(each) for each in of_kind(render("evaluation-values.yaml"), "Deployment")
    }
    served = render("kserve-values.yaml")
    assert "predictor" not in {component(each) for each in of_kind(served, "Deployment", "Service")}


REFUSED = {
    "no GPU": ("gpu-values.yaml", "serving.vllm.resources.limits=null", "serving.vllm.resources"),
    "a runtime that is none": ("gpu-values.yaml", "serving.kserve.runtime=triton", "runtime"),
    "fewer at most": (
        "gpu-values.yaml",
        "serving.kserve.minReplicas=5",
        "serving.kserve.minReplicas",
    ),
    "more pods by nobody": (
        "gpu-values.yaml",
        "serving.kserve.autoscaler=none",
        "serving.kserve.autoscaler",
    ),
    "keda without counts": (
        "gpu-values.yaml",
        "serving.kserve.prometheus=",
        "serving.kserve.prometheus",
    ),
}


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_value_is_named(case: str, before: bool) -> None:
    values, said, named = REFUSED[case]
    # GitOps: whether KServe is there is not asked.
    assert named in refusal(values, f"gitops=true,{said}", before=before)


@pytest.mark.parametrize("before", [False, True])
def test_a_cluster_without_kserve_is_refused_unless_it_is_not_asked(before: bool) -> None:
    assert "serving.mode: " in refusal("kserve-values.yaml", before=before)
    assert "serving.mode: " in refusal("gpu-values.yaml", before=before)


class Metrics(BaseHTTPRequestHandler):
    """Of a vLLM whose requests end one after the other."""

    left: list[int]

    def do_GET(self) -> None:
        running = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        body = f'# HELP vllm:num_requests_running x\nvllm:num_requests_running{{model_name="v 1"}} {running}.0\n'
        body += 'vllm:num_requests_waiting{model_name="v 1"} 0.0\nvllm:kv_cache_usage_perc 0.5\n'
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        """Silent."""


def run_pre_stop(left: list[int], drain_seconds: int) -> int:
    """How many requests the script saw running at last."""
    sets = ("shutdown.preStopSeconds=0", f"serving.kserve.drainSeconds={drain_seconds}")
    *_, script = container_of("gpu-values.yaml", *sets)["lifecycle"]["preStop"]["exec"]["command"]
    handler = type("Own", (Metrics,), {"left": left})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        here = script.replace(":8000/", f":{server.server_port}/")
        subprocess.run([sys.executable, "-c", here], check=True, timeout=30)
        server.shutdown()
    return left[0]


def test_vllm_is_told_to_end_when_no_answer_runs_any_more() -> None:
    left = [2, 1, 1, 0, 9]
    run_pre_stop(left, 60)
    assert left == [9], "asked on until it said 0, and then no more"


def test_vllm_is_told_to_end_after_the_longest_wait_whatever_runs() -> None:
    assert run_pre_stop([3], 1) == 3
