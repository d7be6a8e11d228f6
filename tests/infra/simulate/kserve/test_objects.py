"""Deployment and Service as created by KServe: names, labels, merged container, model folder.

Statuses follow KServe's rules and are interpreted by the generator; both are tested together.
"""

from typing import Any

import kubernetes.client
import pytest

from infra.simulate.kserve.objects import (
    NO_RUNTIME,
    deployment_of,
    reconcile_failed,
    service_of,
    status_of,
)
from services.generator.kubernetes.inference_object import Observed, observe
from tests.infra.simulate.kserve.deployments import (
    AVAILABLE,
    BEGINNING,
    FALLEN,
    KEPT_DOWN,
    LATE,
    REFUSED,
    RUNNING,
    deployment,
    runtime,
    service,
)
from tests.kserve_models import round_trip


def test_pod_is_the_runtimes_with_the_model_mounted() -> None:
    template = deployment_of(service(), runtime())["spec"]["template"]
    (container,) = template["spec"]["containers"]
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts["/mnt/models"]["subPath"] == "runs/v1"
    assert mounts["/mnt/models"]["readOnly"] is True
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    assert (
        volumes[mounts["/mnt/models"]["name"]]["persistentVolumeClaim"]["claimName"]
        == "tw-thumbwheel-models"
    )
    assert set(volumes) == {mount["name"] for mount in container["volumeMounts"]}
    assert container["resources"] == service()["spec"]["predictor"]["model"]["resources"]
    assert template["spec"]["securityContext"]["runAsNonRoot"] is True
    assert "model" not in template["spec"]


def test_arguments_of_the_version_follow_those_of_the_runtime() -> None:
    (container,) = deployment_of(service("gpu-values.yaml"), runtime("gpu-values.yaml"))["spec"][
        "template"
    ]["spec"]["containers"]
    assert container["args"][0] == "--host=0.0.0.0"
    assert container["args"][-1] == "--served-model-name=v1"


def test_command_of_the_version_replaces_that_of_the_runtime() -> None:
    found, made = service("gpu-values.yaml"), runtime("gpu-values.yaml")
    for own in ([], ["vllm", "serve", "v1"]):
        if own:
            found["spec"]["predictor"]["model"]["command"] = own
        (container,) = deployment_of(found, made)["spec"]["template"]["spec"]["containers"]
        assert container["command"] == (own or ["vllm", "serve", "/mnt/models"])


def test_pods_have_labels_of_the_inference_service() -> None:
    made = deployment_of(service(), runtime())
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert service()["metadata"]["labels"].items() <= labels.items()
    assert labels["serving.kserve.io/inferenceservice"] == service()["metadata"]["name"]
    assert made["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u-1"


def test_service_forwards_port_80_to_the_container() -> None:
    made = service_of(service(), runtime())
    assert made["metadata"]["name"] == f"{service()['metadata']['name']}-predictor"
    assert [(port["port"], port["targetPort"]) for port in made["spec"]["ports"]] == [(80, 8000)]
    assert (
        made["spec"]["selector"]
        == deployment_of(service(), runtime())["spec"]["selector"]["matchLabels"]
    )


def test_pod_has_only_fields_known_to_kubernetes() -> None:
    pod = deployment_of(service("gpu-values.yaml"), runtime("gpu-values.yaml"))["spec"]["template"][
        "spec"
    ]
    assert set(pod) <= set(kubernetes.client.V1PodSpec.attribute_map.values())


CASES: dict[str, Any] = {
    "nothing yet": status_of(service(), deployment(), []),
    "beginning": status_of(service(), BEGINNING, [RUNNING]),
    "ready": status_of(service(), AVAILABLE, [RUNNING]),
    "late": status_of(service(), LATE, [RUNNING]),
    "refused": status_of(service(), REFUSED, []),
    "fallen": status_of(service(), BEGINNING, [FALLEN]),
    "kept down": status_of(service(), BEGINNING, [KEPT_DOWN, RUNNING]),
    "no runtime": NO_RUNTIME,
    "not made": reconcile_failed("no such claim"),
}


def seen(case: str) -> Observed:
    return observe(service() | {"status": CASES[case]}, 0)


@pytest.mark.parametrize("case", CASES)
def test_status_equals_that_of_kserve(case: str) -> None:
    assert round_trip(CASES[case], "V1beta1InferenceServiceStatus") == CASES[case]


def test_available_service_is_ready() -> None:
    ready = [
        case
        for case in CASES
        if {each["status"] for each in CASES[case].get("conditions", [{"status": ""}])} == {"True"}
    ]
    assert ready == ["ready"]


def test_url_is_that_of_the_service() -> None:
    name = service()["metadata"]["name"]
    assert (
        seen("ready").url
        == seen("beginning").url
        == f"http://{name}-predictor.chat.svc.cluster.local"
    )
    assert seen("no runtime").url == ""


def test_only_permanent_errors_are_failures() -> None:
    failures = {case: seen(case).failure for case in CASES if seen(case).failure}
    assert failures == {
        "refused": "FailedCreate: FailedCreate!",
        "fallen": "ModelLoadFailed: v1: config.json is missing",
        "kept down": "ModelLoadFailed: v1: config.json is missing",
        "no runtime": "RuntimeNotRecognized: Waiting for runtime to become available",
        "not made": "ReconcileFailed: no such claim",
    }


def test_reason_of_waiting_is_reported() -> None:
    assert "MinimumReplicasUnavailable" in seen("beginning").waiting_reason
    # A Deployment past its deadline is also unavailable, and KServe reports this condition last.
    assert "MinimumReplicasUnavailable" in seen("late").waiting_reason
    assert seen("ready").waiting_reason not in ("", seen("nothing yet").waiting_reason)
    assert "MinimumReplicasUnavailable" not in seen("ready").waiting_reason


def test_other_port_is_that_of_the_pods() -> None:
    assert observe(service() | {"status": CASES["ready"]}, 8000).url.endswith(
        ".svc.cluster.local:8000"
    )
