"""Reasons why the pods of a run do not start, as a single line.

KubeRay does not report them in the RayJob. A rejected pod is in the conditions of the RayCluster;
missing resources, images or memory are in the pods and their init containers. A volume that cannot
be mounted is only in the events of the node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from training.launching.kubernetes import Manifest

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
        yield from _of_container(role, container)


def _of_container(role: str, container: dict[str, Any]) -> Iterator[str]:
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
