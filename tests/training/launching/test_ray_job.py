"""Descriptions of start failures, from objects recorded from the real KubeRay and kubelet."""

from typing import Any

import pytest

from training.launching.ray_job import (
    MAX_CHARACTERS,
    find_start_failure,
    missing_volume,
    waits_for_node,
)

NO_ROOM = "0/1 nodes are available: 1 Insufficient cpu."


def pod(role: str = "head", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": "pod", "labels": {"ray.io/node-type": role}}, "status": status}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {
        "name": "c",
        "image": "registry.example/ray:2",
        "state": {"waiting": {"reason": reason, "message": message}},
    }


KILLED = {
    "name": "c",
    "state": {"running": {}},
    "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137}},
}
# Words of the pod that a description contains.
CASES: dict[str, tuple[list[dict[str, Any]], tuple[str, ...]]] = {
    "no room": (
        [pod(conditions=[{"type": "PodScheduled", "status": "False", "message": NO_ROOM}])],
        ("head", NO_ROOM),
    ),
    "a wrong image of the head": (
        [pod(containerStatuses=[waiting("ImagePullBackOff", "no such host")])],
        ("head", "registry.example/ray:2", "ImagePullBackOff", "no such host"),
    ),
    "a wrong image of a worker, which its init container has too": (
        [pod(), pod("worker", initContainerStatuses=[waiting("ErrImagePull", "not found")])],
        ("worker", "registry.example/ray:2", "ErrImagePull", "not found"),
    ),
    "no shell": (
        [pod(containerStatuses=[waiting("RunContainerError", 'exec: "/bin/bash": no such file')])],
        ("head", "RunContainerError", 'exec: "/bin/bash": no such file'),
    ),
    "no memory": ([pod("worker", containerStatuses=[KILLED])], ("worker",)),
    "evicted": ([pod(reason="Evicted", message="low on disk")], ("head", "low on disk")),
    "a submitter": (
        [
            {
                "metadata": {"name": "s"},
                "status": {"containerStatuses": [waiting("CrashLoopBackOff", "back-off")]},
            }
        ],
        ("submitter", "CrashLoopBackOff", "back-off"),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_start_failure_is_described_in_one_line(case: str) -> None:
    pods, named = CASES[case]
    line = find_start_failure(None, pods)
    assert [word for word in named if word not in line] == []
    assert "\n" not in line


def test_only_out_of_memory_ends_are_start_failures() -> None:
    ended = {**KILLED, "lastState": {"terminated": {"reason": "Completed", "exitCode": 0}}}
    assert find_start_failure(None, [pod("worker", containerStatuses=[ended])]) == ""


def test_rejected_pod_is_found_in_cluster_conditions() -> None:
    text = 'pods "x" is forbidden: violates PodSecurity\n"restricted:latest"'
    conditions = [
        {"type": "HeadPodReady", "status": "False", "message": "containers with unready status"},
        {"type": "ReplicaFailure", "status": "True", "message": text},
    ]
    line = find_start_failure({"status": {"conditions": conditions}}, [])
    assert 'pods "x" is forbidden: violates PodSecurity "restricted:latest"' in line
    assert (
        find_start_failure({"status": {"conditions": [{**conditions[1], "status": "False"}]}}, [])
        == ""
    )


def test_starting_pods_have_no_start_failure() -> None:
    starting = waiting("ContainerCreating")
    assert (
        find_start_failure(
            {"metadata": {}}, [pod(containerStatuses=[starting]), pod("worker"), {"metadata": {}}]
        )
        == ""
    )


STUCK = pod(
    conditions=[
        {"type": "PodReadyToStartContainers", "status": "False"},
        {"type": "PodScheduled", "status": "True"},
    ]
)


def event(reason: str, message: str, minute: int) -> dict[str, Any]:
    return {
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-11-26T12:{minute:02d}:00Z",
    }


def test_unmountable_volume_is_found_in_node_events() -> None:
    noted = [
        event("FailedMount", "hostPath type check failed:\n/x is not a directory", 7),
        event("Scheduled", "assigned", 9),
        event("FailedMount", "timed out", 3),
    ]
    line = missing_volume(STUCK, noted)
    for named in ("head", "FailedMount", "hostPath type check failed: /x is not a directory"):
        assert named in line
    assert "timed out" not in line
    assert missing_volume(STUCK, noted[1:2]) == ""
    assert len(missing_volume(STUCK, [event("FailedMount", "x" * 1_000, 1)])) == MAX_CHARACTERS


def test_events_are_read_only_for_scheduled_pods_that_wait() -> None:
    assert waits_for_node(STUCK)
    begun = [
        {"type": "PodReadyToStartContainers", "status": "True"},
        {"type": "PodScheduled", "status": "True"},
    ]
    nowhere = [
        {"type": "PodReadyToStartContainers", "status": "False"},
        {"type": "PodScheduled", "status": "False"},
    ]
    assert not any(
        waits_for_node(each) for each in (pod(conditions=begun), pod(conditions=nowhere), pod())
    )


def test_long_message_is_truncated() -> None:
    assert (
        len(
            find_start_failure(None, [pod(containerStatuses=[waiting("ErrImagePull", "x" * 1000)])])
        )
        == MAX_CHARACTERS
    )
