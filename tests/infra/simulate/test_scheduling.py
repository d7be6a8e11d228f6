"""Pods of the chart on several nodes and zones, placed by kube-scheduler without kubelets.

The scheduler decides by the predicates that a cluster uses: affinity, spread, taints, and volumes.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any

import pytest

from tests.charts.rendering import Object, component, of_kind, pods, render
from tests.support.scheduler import NAMESPACE, Scheduler, bound_claim, running_scheduler

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]

ZONES = {"node-a1": "a", "node-a2": "a", "node-b1": "b", "node-c1": "c"}
HA, ONE_NODE = "high-availability-values.yaml", "one-node-values.yaml"
TWICE = ("serviceDefaults.replicas=2", "valkey.existingSecret=valkey")
COPIES = 3


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scheduler]:
    with running_scheduler(tmp_path_factory.mktemp("scheduler")) as found:
        yield found


@pytest.fixture
def scheduler(started: Scheduler) -> Iterator[Scheduler]:
    yield started
    started.clear()


def copy_of(template: Any, name: str) -> dict[str, Any]:
    """Return a pod as its controller would create it, with its missing volumes empty."""
    spec = deepcopy(template["spec"])
    names = {volume["name"] for volume in spec.get("volumes", ())}
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in names:
                names.add(mount["name"])
                spec.setdefault("volumes", []).append({"name": mount["name"], "emptyDir": {}})
    labels = {**template["metadata"]["labels"], "pod-template-hash": "one"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    }


def controlled(objects: Sequence[Object]) -> dict[str, Any]:
    """Return the pods of Deployments and StatefulSets by component."""
    return {
        component(item): item["spec"]["template"]
        for item in of_kind(objects, "Deployment", "StatefulSet")
    }


def copies(objects: Sequence[Object], number: int) -> list[dict[str, Any]]:
    return [
        copy_of(template, f"{name}-{index}")
        for name, template in controlled(objects).items()
        for index in range(number)
    ]


def with_claims(objects: Sequence[Object], number: int) -> list[dict[str, Any]]:
    """Return the pods that mount a claim, and the pod of a run."""
    run = copy_of(pods(objects)["training/CronJob"], "training-0")
    return [
        pod
        for pod in (*copies(objects, number), run)
        if any("persistentVolumeClaim" in volume for volume in pod["spec"]["volumes"])
    ]


def add_claims(scheduler: Scheduler, pods: Sequence[Any], modes: Sequence[str]) -> None:
    names = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in pods
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert names
    for name in sorted(names):
        scheduler.apply(*bound_claim(name, modes))


def test_pods_with_claims_of_one_node_start_on_one_of_several_nodes(scheduler: Scheduler) -> None:
    scheduler.add_nodes(ZONES)
    found = with_claims(render(ONE_NODE, *TWICE), 2)
    add_claims(scheduler, found, ["ReadWriteOnce"])
    placed = scheduler.schedule(*found)
    assert len(placed) >= 9
    assert len({*placed.values()}) == 1, placed
    assert "" not in placed.values()


def test_without_their_affinity_these_pods_are_spread(scheduler: Scheduler) -> None:
    """Shows that the spread alone puts pods on nodes that cannot mount the claim."""
    scheduler.add_nodes(ZONES)
    found = with_claims(render(ONE_NODE, *TWICE), 2)
    add_claims(scheduler, found, ["ReadWriteOnce"])
    for pod in found:
        del pod["spec"]["affinity"]
    assert len({*scheduler.schedule(*found).values()}) > 1


def test_high_availability_has_each_component_in_every_zone(scheduler: Scheduler) -> None:
    scheduler.add_nodes(ZONES)
    objects = render(HA)
    found = copies(objects, COPIES)
    add_claims(scheduler, found, ["ReadWriteMany"])
    placed = scheduler.schedule(*found)
    for name in controlled(objects):
        nodes = {placed[f"{name}-{index}"] for index in range(COPIES)}
        assert {ZONES.get(node) for node in nodes} == {"a", "b", "c"}, (name, nodes)


def test_pods_of_a_lost_zone_start_in_the_others(scheduler: Scheduler) -> None:
    scheduler.add_nodes(ZONES)
    found = copies(render(HA), COPIES)
    add_claims(scheduler, found, ["ReadWriteMany"])
    placed = scheduler.schedule(*found)
    lost = [pod for pod in found if ZONES[placed[pod["metadata"]["name"]]] == "c"]
    assert lost
    scheduler.kubectl("taint", "node", "node-c1", "node.kubernetes.io/unreachable:NoSchedule")
    names = [pod["metadata"]["name"] for pod in lost]
    scheduler.kubectl("delete", "pods", *names, "--grace-period=0", "--force")
    replaced = scheduler.schedule(*lost)
    assert {ZONES.get(node) for node in replaced.values()} <= {"a", "b"}


def test_in_a_single_zone_pods_of_high_availability_wait(scheduler: Scheduler) -> None:
    """A release that would not survive a lost zone does not look as if it did."""
    scheduler.add_nodes({"node-a1": "a", "node-a2": "a"})
    objects = render(HA)
    found = copies(objects, COPIES)
    add_claims(scheduler, found, ["ReadWriteMany"])
    placed = scheduler.schedule(*found)
    for name in controlled(objects):
        nodes = [placed[f"{name}-{index}"] for index in range(COPIES)]
        assert nodes.count("") == COPIES - 1, (name, nodes)
