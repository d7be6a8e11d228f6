"""Deployment and Service that KServe creates for an InferenceService in Standard mode.

The container is that of the runtime. The arguments of the InferenceService follow the runtime's,
and the folder of the claim is mounted at /mnt/models. Not simulated are webhooks (which fill in
resources), autoscalers, ingresses, and storage other than claims.
"""

from infra.machine.cluster.policies.objects import Json

CONTAINER, MODELS = "kserve-container", "/mnt/models"
VOLUME = "kserve-pvc-source"
HTTP_PORT = 80
# Fields of a predictor that do not belong to the pod.
_PREDICTOR_FIELDS = frozenset(
    {"model", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "autoScaling"}
)


def name_of(service: Json) -> str:
    """Return the name of the Deployment, of the Service and in the pods' label."""
    return f"{service['metadata']['name']}-predictor"


def app_label(service: Json) -> dict[str, str]:
    """Return the label that selects the pods."""
    return {"app": f"isvc.{name_of(service)}"}


def deployment_of(service: Json, runtime: Json) -> Json:
    """Return the Deployment to apply."""
    predictor = service["spec"]["predictor"]
    pod = {key: value for key, value in predictor.items() if key not in _PREDICTOR_FIELDS}
    claim, _, folder = predictor["model"]["storageUri"].removeprefix("pvc://").partition("/")
    model = predictor["model"]
    pod["containers"] = []
    for container in runtime["spec"]["containers"]:
        merged = dict(container)
        merged["args"] = [*container.get("args", ()), *model.get("args", ())]
        merged["env"] = [
            *container.get("env", ()),
            {"name": "INFERENCE_SERVICE_NAME", "value": service["metadata"]["name"]},
        ]
        merged["volumeMounts"] = [
            *container.get("volumeMounts", ()),
            {"name": VOLUME, "mountPath": MODELS, "subPath": folder, "readOnly": True},
        ]
        if "resources" in model:
            merged["resources"] = model["resources"]
        pod["containers"].append(merged)
    pod["volumes"] = [
        *runtime["spec"].get("volumes", ()),
        {"name": VOLUME, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}},
    ]
    return _owned(service, "apps/v1", "Deployment") | {
        "spec": {
            "replicas": predictor.get("minReplicas", 1),
            "selector": {"matchLabels": app_label(service)},
            "template": {"metadata": {"labels": _labels(service)}, "spec": pod},
        }
    }


def service_of(service: Json, runtime: Json) -> Json:
    """Return the Service to apply, always with port 80."""
    port = runtime["spec"]["containers"][0]["ports"][0]
    ports = [
        {
            "name": port["name"],
            "port": HTTP_PORT,
            "targetPort": port["containerPort"],
            "protocol": "TCP",
        }
    ]
    return _owned(service, "v1", "Service") | {
        "spec": {"selector": app_label(service), "ports": ports}
    }


def _labels(service: Json) -> dict[str, str]:
    own = {
        "serving.kserve.io/inferenceservice": service["metadata"]["name"],
        "component": "predictor",
    }
    return {**service["metadata"].get("labels", {}), **own, **app_label(service)}


def _owned(service: Json, api_version: str, kind: str) -> dict[str, object]:
    owner = {key: service[key] for key in ("apiVersion", "kind")}
    owner |= {
        "name": service["metadata"]["name"],
        "uid": service["metadata"]["uid"],
        "controller": True,
    }
    metadata = {
        "name": name_of(service),
        "namespace": service["metadata"]["namespace"],
        "labels": _labels(service),
        "ownerReferences": [owner],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}
