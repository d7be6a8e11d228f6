"""API objects of an InferenceService, its runtime, its Deployment and its pods."""

from typing import Any

from tests.charts.kserve_objects import runtime_of, service_of

Json = dict[str, Any]


def service(values: str = "kserve-values.yaml", version: str = "v1") -> Json:
    """Return the object as stored by the API server."""
    found = service_of(values, version=version, folder="runs/v1")
    metadata = found["metadata"] | {"namespace": "chat", "uid": "u-1", "generation": 1}
    return {**found, "metadata": metadata}


def runtime(values: str = "kserve-values.yaml") -> Json:
    found = runtime_of(values)
    return {**found, "metadata": {**found["metadata"], "namespace": "chat", "resourceVersion": "7"}}


def deployment(**conditions: tuple[str, str]) -> Json:
    """Return the Deployment with conditions given as (status, reason)."""
    told = [
        {"type": kind, "status": status, "reason": reason, "message": f"{reason}!"}
        for kind, (status, reason) in conditions.items()
    ]
    return {"status": {"observedGeneration": 3, "conditions": told}}


def pod(state: Json, last: Json | None = None) -> Json:
    container = {"name": "kserve-container", "state": state, "lastState": last or {}}
    return {
        "metadata": {"creationTimestamp": "2026-11-26T00:00:00Z"},
        "status": {"containerStatuses": [container]},
    }


BEGINNING = deployment(
    Available=("False", "MinimumReplicasUnavailable"), Progressing=("True", "ReplicaSetUpdated")
)
AVAILABLE = deployment(
    Available=("True", "MinimumReplicasAvailable"), Progressing=("True", "NewReplicaSetAvailable")
)
LATE = deployment(
    Available=("False", "MinimumReplicasUnavailable"),
    Progressing=("False", "ProgressDeadlineExceeded"),
)
REFUSED = deployment(
    Available=("False", "MinimumReplicasUnavailable"),
    Progressing=("True", "ReplicaSetUpdated"),
    ReplicaFailure=("True", "FailedCreate"),
)
RUNNING = pod({"running": {}})
ENDED = {"terminated": {"reason": "Error", "exitCode": 1, "message": "v1: config.json is missing"}}
FALLEN = pod(ENDED)
KEPT_DOWN = pod({"waiting": {"reason": "CrashLoopBackOff"}}, ENDED)
