"""Deployment and Service as created by KServe: names, labels, merged container, model folder."""

import kubernetes.client

from infra.simulate.kserve.objects import deployment_of, service_of
from tests.infra.simulate.kserve.deployments import runtime, service


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
