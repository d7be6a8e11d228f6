"""Deployment and Service that KServe creates for an InferenceService in Standard mode.

The container is that of the runtime. The arguments of the InferenceService follow the runtime's,
and its command replaces the runtime's. /mnt/models is the folder of the claim, or what the init
container has downloaded from the object store. Not simulated are webhooks (which fill in
resources), autoscalers, ingresses, and storage other than claims and S3.

The status of an InferenceService is derived from the Deployment and the newest pod by a pure
function. As in KServe, `observedGeneration` is that of the Deployment, a starting predictor has the
status "False" like a failed one, and a failed container signals a failed model load.
"""

from collections.abc import Sequence
from typing import Any

from infra.machine.cluster.policies.objects import Json
from infra.simulate.kserve import storage
from infra.simulate.kserve.storage import MODELS

CONTAINER = "kserve-container"
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


def deployment_of(
    service: Json, runtime: Json, initializer: str = "", variables: Sequence[Json] = ()
) -> Json:
    """Return the Deployment to apply.

    Args:
        initializer: image of the init container, for a storageUri of an object store.
        variables: variables of the init container.
    """
    predictor = service["spec"]["predictor"]
    pod = {key: value for key, value in predictor.items() if key not in _PREDICTOR_FIELDS}
    model = predictor["model"]
    uri = model["storageUri"]
    if uri.startswith(storage.SCHEME):
        volume: Json = {"name": storage.VOLUME, "emptyDir": {}}
        mount: Json = {"name": storage.VOLUME, "mountPath": MODELS, "readOnly": True}
        (user,) = runtime["spec"]["containers"]
        pod["initContainers"] = [storage.init_container(uri, initializer, variables, user)]
    else:
        claim, _, folder = uri.removeprefix("pvc://").partition("/")
        source = {"claimName": claim, "readOnly": True}
        volume = {"name": VOLUME, "persistentVolumeClaim": source}
        mount = {"name": VOLUME, "mountPath": MODELS, "subPath": folder, "readOnly": True}
    pod["containers"] = []
    for container in runtime["spec"]["containers"]:
        merged = dict(container)
        merged["command"] = model.get("command", container.get("command", []))
        merged["args"] = [*container.get("args", ()), *model.get("args", ())]
        merged["env"] = [
            *container.get("env", ()),
            {"name": "INFERENCE_SERVICE_NAME", "value": service["metadata"]["name"]},
        ]
        merged["volumeMounts"] = [*container.get("volumeMounts", ()), mount]
        if "resources" in model:
            merged["resources"] = model["resources"]
        pod["containers"].append(merged)
    pod["volumes"] = [*runtime["spec"].get("volumes", ()), volume]
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


TRUE, FALSE, UNKNOWN = "True", "False", "Unknown"
NO_RUNTIME: dict[str, Any] = {
    "modelStatus": {
        "transitionStatus": "InvalidSpec",
        "states": {"activeModelState": "", "targetModelState": "FailedToLoad"},
        "lastFailureInfo": {
            "reason": "RuntimeNotRecognized",
            "message": "Waiting for runtime to become available",
        },
    }
}


def reconcile_failed(message: str) -> dict[str, Any]:
    """Return the status after a rejected change."""
    return {
        "conditions": _conditions(
            {"status": FALSE, "reason": "ReconcileFailed", "message": message}
        )
    }


def status_of(service: Json, deployment: Json, pods: Sequence[Json]) -> dict[str, Any]:
    """Return the status. `pods` are sorted newest first."""
    conditions = {each["type"]: each for each in deployment.get("status", {}).get("conditions", ())}
    available, progressing = conditions.get("Available"), conditions.get("Progressing")
    failed = conditions.get("ReplicaFailure")
    # Each of these checks overrides the earlier ones, as in KServe.
    predictor = {"status": FALSE, "reason": ""}
    if available and available["status"] == TRUE:
        predictor = _condition(TRUE, available)
    if progressing and progressing["status"] == FALSE:
        predictor = _condition(FALSE, progressing)
    elif progressing:
        predictor = _condition(
            TRUE if progressing["reason"] == "NewReplicaSetAvailable" else UNKNOWN, progressing
        )
    if available and available["status"] == FALSE:
        predictor = _condition(FALSE, available)
    if failed and failed["status"] == TRUE:
        predictor = _condition(FALSE, failed)
    # A ready predictor has neither reason nor message.
    predictor = predictor if predictor["status"] != TRUE else {"status": TRUE}
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    host = f"{name_of(service)}.{namespace}.svc.cluster.local"
    return {
        "observedGeneration": deployment.get("status", {}).get("observedGeneration", 0),
        "deploymentMode": "Standard",
        "servingRuntimeName": service["spec"]["predictor"]["model"]["runtime"],
        "address": {"url": f"http://{host}"},
        "url": f"http://{name}-{namespace}.example.com",
        "conditions": _conditions(predictor),
        "modelStatus": _model_status(pods, is_ready=predictor["status"] == TRUE),
    }


def _conditions(predictor: dict[str, str]) -> list[dict[str, str]]:
    """Return conditions sorted by type.

    Without an ingress, IngressReady is true immediately.
    """
    fields = {key: value for key, value in predictor.items() if value}
    return [
        {"type": "IngressReady", "status": TRUE},
        {"type": "PredictorReady", **fields},
        {"type": "Ready", **fields},
    ]


def _condition(status: str, condition: Json) -> dict[str, str]:
    return {
        "status": status,
        "reason": condition.get("reason", ""),
        "message": condition.get("message", ""),
    }


def _model_status(pods: Sequence[Json], *, is_ready: bool) -> dict[str, Any]:
    if not pods:
        return _in_progress("Pending")
    if is_ready:
        states = {"activeModelState": "Loaded", "targetModelState": "Loaded"}
        return {
            "transitionStatus": "UpToDate",
            "states": states,
            "copies": {"failedCopies": 0, "totalCopies": len(pods)},
        }
    status = pods[0].get("status", {})
    of_download = status.get("initContainerStatuses", ())
    for container in [*of_download, *status.get("containerStatuses", ())]:
        if container["name"] not in (storage.CONTAINER, CONTAINER):
            continue
        if container["name"] == storage.CONTAINER and "running" in container.get("state", {}):
            return _in_progress("Loading")
        # A failed container has terminated, or waits for the next restart.
        state, terminated = container.get("state", {}), None
        if state.get("terminated", {}).get("reason") == "Error":
            terminated = state["terminated"]
        elif state.get("waiting", {}).get("reason") == "CrashLoopBackOff":
            terminated = container.get("lastState", {}).get("terminated")
        if terminated:
            failure = {
                "reason": "ModelLoadFailed",
                "message": terminated.get("message", ""),
                "exitCode": terminated["exitCode"],
            }
            states = {"activeModelState": "", "targetModelState": "FailedToLoad"}
            return {
                "transitionStatus": "BlockedByFailedLoad",
                "states": states,
                "lastFailureInfo": failure,
            }
    return _in_progress("Pending")


def _in_progress(target: str) -> dict[str, Any]:
    return {
        "transitionStatus": "InProgress",
        "states": {"activeModelState": "", "targetModelState": target},
    }
