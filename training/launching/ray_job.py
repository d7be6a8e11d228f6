"""RayJob and its pods as seen by the launcher: owner, state, and causes of failures as text.

KubeRay's terminal states do not include ValidationFailed. Its message may contain the last 20,000
characters of the program's log, so only the exit status is reported.

KubeRay does not report in the RayJob why pods do not start. A rejected pod is in the conditions of
the RayCluster; missing resources, images or memory are in the pods and their init containers. A
volume that cannot be mounted is only in the events of the node.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from training.launching.kubernetes import Manifest

RAY_JOBS = "apis/ray.io/v1/rayjobs"
RUN_LABEL = "thumbwheel/run"
ENDED = ("Complete", "Failed", "ValidationFailed")
BEGUN = ("RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
MAX_REASON_CHARACTERS = 300
EXITS = {
    1: "the run failed; see the log of its pod",
    3: "another loop uses this state",
    130: "the run was stopped",
    137: "the run was killed, possibly out of memory",
}
MAX_CHARACTERS = 300
NO_IMAGE = (
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
)
NO_START = (
    *(
        "CrashLoopBackOff",
        "RunContainerError",
        "CreateContainerError",
        "CreateContainerConfigError",
    ),
    *("ContainerCannotRun", "StartError"),
)
NO_VOLUME = ("FailedMount", "FailedAttachVolume", "FailedMapVolume")
ROLE_LABEL = "ray.io/node-type"


@dataclass(frozen=True)
class RayJob:
    """State of a RayJob.

    Attributes:
        owner_job: Kubernetes Job that created the RayJob.
        deployment, job: the two statuses of KubeRay.
    """

    name: str
    uid: str
    owner_job: str
    created: datetime
    suspended: bool
    deleted: bool
    deployment: str
    job: str
    reason: str
    message: str
    cluster: str

    @property
    def ended(self) -> bool:
        return self.deployment in ENDED

    @property
    def succeeded(self) -> bool:
        return self.deployment == "Complete" and self.job == "SUCCEEDED"

    @property
    def begun(self) -> bool:
        """Return True if the run is active or has been; before, only the launcher reports."""
        return self.ended or (self.deployment == "Running" and self.job in BEGUN)

    def failure(self) -> str:
        """Return the cause of the failure."""
        if code := re.search(r"exit code:? (\d+)", self.message):
            status = int(code[1])
            return EXITS.get(status, f"the run ended with exit status {status}")
        words = " ".join(self.message.split())[:MAX_REASON_CHARACTERS]
        return ": ".join(text for text in (self.reason or self.deployment, words) if text)


def parse(manifest: Manifest) -> RayJob:
    """Parse an object of the API server."""
    about, status = manifest["metadata"], manifest.get("status", {})

    def said(name: str) -> str:
        return str(status.get(name) or "")

    return RayJob(
        name=about["name"],
        uid=about["uid"],
        owner_job=about.get("labels", {}).get(RUN_LABEL, ""),
        created=datetime.fromisoformat(about["creationTimestamp"]),
        suspended=bool(manifest["spec"].get("suspend")),
        deleted="deletionTimestamp" in about,
        deployment=said("jobDeploymentStatus"),
        job=said("jobStatus"),
        reason=said("reason"),
        message=said("message"),
        cluster=said("rayClusterName"),
    )


def ray_job_manifest(template: Manifest, owner_job: str, owner_uid: str) -> dict[str, Any]:
    """Return the RayJob of a run from the chart's template, owned by a Kubernetes Job."""
    about = template["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": owner_job, "uid": owner_uid}
    labels = {**about.get("labels", {}), RUN_LABEL: owner_job}
    return {**template, "metadata": {**about, "labels": labels, "ownerReferences": [owner]}}


def find_start_failure(cluster: Manifest | None, pods: Sequence[Manifest]) -> str:
    """Return the first reason, or ""."""
    for condition in (cluster or {}).get("status", {}).get("conditions", ()):
        if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
            return _one_line(f"a pod was rejected: {condition.get('message', '')}")
    return _one_line(next((line for pod in pods for line in _of_pod(pod)), ""))


def waits_for_node(pod: Manifest) -> bool:
    """Return True if a scheduled pod waits for the volumes and network of its node."""
    conditions = {
        each["type"]: each["status"] for each in pod.get("status", {}).get("conditions", ())
    }
    return (
        conditions.get("PodScheduled") == "True"
        and conditions.get("PodReadyToStartContainers") == "False"
    )


def missing_volume(pod: Manifest, events: Sequence[Manifest]) -> str:
    """Return the last event about a missing volume, or ""."""
    found = [each for each in events if each.get("reason") in NO_VOLUME]
    last = max(found, key=lambda each: str(each.get("lastTimestamp")), default=None)
    return (
        _one_line(
            f"a volume of the {_role(pod)} is missing: {last['reason']}: {last.get('message', '')}"
        )
        if last
        else ""
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())[:MAX_CHARACTERS]


def _of_pod(pod: Manifest) -> Iterator[str]:
    status, role = pod.get("status", {}), _role(pod)
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            yield f"no node for the {role}: {condition.get('message', '')}"
    if status.get("reason") == "Evicted":
        yield f"the {role} was evicted: {status.get('message', '')}"
    for container in (
        *status.get("initContainerStatuses", ()),
        *status.get("containerStatuses", ()),
    ):
        state, last = container.get("state", {}), container.get("lastState", {})
        for ended in (state.get("terminated", {}), last.get("terminated", {})):
            if ended.get("reason") == "OOMKilled":
                yield f"the {role} was killed: out of memory"
        waiting = state.get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        if reason in NO_IMAGE:
            image = container.get("image", "")
            yield f"the {role}'s image {image} cannot be pulled: {reason}: {message}"
        elif reason in NO_START:
            yield f"the {role} does not start: {reason}: {message}"


def _role(pod: Manifest) -> str:
    return str(pod["metadata"].get("labels", {}).get(ROLE_LABEL, "submitter"))
