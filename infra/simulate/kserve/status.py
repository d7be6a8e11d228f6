"""Status of an InferenceService in Standard mode, derived from Deployment and newest pod.

The function is pure and follows KServe: `observedGeneration` is that of the Deployment, a starting
predictor has the status "False" like a failed one, and a failed container signals a failed model
load.
"""

from collections.abc import Sequence
from typing import Any

from infra.machine.cluster.policies.objects import Json
from infra.simulate.kserve.objects import CONTAINER, name_of

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
    for container in pods[0].get("status", {}).get("containerStatuses", ()):
        if container["name"] != CONTAINER:
            continue
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
