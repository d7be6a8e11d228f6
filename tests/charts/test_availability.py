"""Replicas, disruption budgets, spread, and pods that share a claim of one node."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from services.generator.kubernetes.inference_object import CANDIDATE_KEY, TEMPLATE_KEY
from tests.charts.cluster_api import serving
from tests.charts.kserve_objects import service_of
from tests.charts.rendering import (
    CHART,
    VALUES,
    Object,
    component,
    helm,
    of_kind,
    parse,
    pods,
    render,
)

HA, ONE_NODE, EXISTING = (
    "high-availability-values.yaml",
    "one-node-values.yaml",
    "existing-values.yaml",
)
ZONE, NODE = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
OWN_CLAIM = "models.existingClaim="


def replicas(objects: Sequence[Object]) -> dict[str, int]:
    """Return the number of pods by component, with an autoscaler the lowest one."""
    found = {
        component(item): item["spec"].get("replicas", 0)
        for item in of_kind(objects, "Deployment", "StatefulSet")
    }
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        found[component(scaler)] = scaler["spec"]["minReplicas"]
    return found


def environment(objects: Sequence[Object], name: str) -> dict[str, str]:
    container = pods(objects)[f"{name}/Deployment"]["spec"]["containers"][0]
    return {item["name"]: item.get("value", "") for item in container["env"]}


def spread(pod: Any) -> dict[str, Mapping[str, Any]]:
    return {item["topologyKey"]: item for item in pod["spec"]["topologySpreadConstraints"]}


def shared_node(pod: Any) -> list[str]:
    """Return the components with which a pod must share its node."""
    terms = (
        pod["spec"]
        .get("affinity", {})
        .get("podAffinity", {})
        .get("requiredDuringSchedulingIgnoredDuringExecution", ())
    )
    for term in terms:
        assert term["topologyKey"] == NODE
        labels = pod["metadata"]["labels"]
        assert term["labelSelector"]["matchLabels"].items() <= labels.items()
        (expression,) = term["labelSelector"]["matchExpressions"]
        # Otherwise the first pod of the group could not be scheduled.
        assert labels[expression["key"]] in expression["values"]
        return sorted(expression["values"])
    return []


def mounting(objects: Sequence[Object], *claims: str) -> set[str]:
    return {
        name
        for name, pod in pods(objects).items()
        for volume in pod["spec"].get("volumes", ())
        if volume.get("persistentVolumeClaim", {}).get("claimName") in claims
    }


def test_every_component_of_the_file_for_high_availability_survives_a_lost_zone() -> None:
    objects = render(HA)
    counts = replicas(objects)
    budgets = {component(item): item["spec"] for item in of_kind(objects, "PodDisruptionBudget")}
    assert {name for name, count in counts.items() if count < 3} == set()
    assert budgets.keys() == counts.keys()
    assert "predictor" in counts
    for name, pod in pods(objects).items():
        if name.split("/")[0] in counts:
            zones = spread(pod)[ZONE]
            assert (zones["whenUnsatisfiable"], zones["maxSkew"]) == ("DoNotSchedule", 1)
            # A zone whose nodes are lost must not keep its pods from the other zones.
            assert (zones["minDomains"], zones["nodeTaintsPolicy"]) == (2, "Honor")
            labels = pod["metadata"]["labels"].items()
            assert zones["labelSelector"]["matchLabels"].items() <= labels
            assert spread(pod)[NODE]["whenUnsatisfiable"] == "ScheduleAnyway"
            assert shared_node(pod) == []
            assert pod["spec"]["priorityClassName"] == "serving"
    for budget in budgets.values():
        assert budget["maxUnavailable"] == 1


def test_several_model_servers_are_found_by_a_headless_service() -> None:
    objects = render(HA)
    services = {item["metadata"]["name"]: item["spec"] for item in of_kind(objects, "Service")}
    url = environment(objects, "generator")["TW_GENERATOR_PREDICTOR_URL"]
    service = services[url.removeprefix("http://").removesuffix(":8000")]
    (server,) = [item for item in of_kind(objects, "Deployment") if component(item) == "predictor"]
    assert service["clusterIP"] == "None"
    assert service["selector"] == server["spec"]["selector"]["matchLabels"]
    # The DNS still names a pod that an upgrade has replaced.
    assert server["spec"]["minReadySeconds"] == 30
    # The pods of an upgrade read versions at any pod that is ready.
    peers = environment(objects, "predictor")["TW_PREDICTOR_PEER_URL"]
    assert "clusterIP" not in services[peers.removeprefix("http://").removesuffix(":8000")]


def test_one_model_server_is_called_by_its_own_address() -> None:
    objects = render(ONE_NODE)
    url = environment(objects, "generator")["TW_GENERATOR_PREDICTOR_URL"]
    assert url == "http://tw-thumbwheel-predictor:8000"
    assert replicas(objects)["predictor"] == 1
    assert of_kind(objects, "PodDisruptionBudget") == []


@pytest.mark.parametrize(("least", "budgets"), [(1, 0), (2, 1)])
def test_pods_of_inference_services_have_a_budget_if_there_are_several(
    least: int, budgets: int
) -> None:
    scale = f"serving.kserve.minReplicas={least},serving.kserve.maxReplicas={least}"
    found = [
        item["spec"]["selector"]["matchLabels"]
        for item in of_kind(render("kserve-values.yaml", scale), "PodDisruptionBudget")
        if component(item) == "predictor"
    ]
    assert len(found) == budgets
    assert all(labels["app.kubernetes.io/component"] == "predictor" for labels in found)


def test_an_autoscaler_adds_pods_by_the_cpu_of_a_process_and_not_by_requests() -> None:
    """Finding 14: 60 % of a request of 100m were 60 thousandths of a CPU."""
    scalers = {
        component(item): item["spec"]["metrics"]
        for item in of_kind(render(HA), "HorizontalPodAutoscaler")
    }
    assert scalers.keys() == {"gateway", "guardrail"}
    for name, cpu in (("gateway", "500m"), ("guardrail", "600m")):
        (metric,) = scalers[name]
        target = {"type": "AverageValue", "averageValue": cpu}
        assert metric["resource"] == {"name": "cpu", "target": target}


def test_the_job_of_the_model_and_vllm_have_a_place_and_a_priority() -> None:
    place = {"nodeAffinity": {}}
    sets = [f"{name}.affinity={json.dumps(place)}" for name in ("models.import", "serving.vllm")]
    sets += [f'{name}.priorityClassName="late"' for name in ("models.import", "serving.vllm")]
    objects = render("eight-gpus-values.yaml", json_sets=tuple(sets))
    (data,) = [
        item["data"] for item in of_kind(objects, "ConfigMap") if TEMPLATE_KEY in item["data"]
    ]
    for spec in (
        pods(objects)["model/Job"]["spec"],
        json.loads(data[TEMPLATE_KEY])["spec"]["predictor"],
    ):
        assert (spec["affinity"], spec["priorityClassName"]) == (place, "late")


def test_topology_keys_and_strictness_are_values() -> None:
    objects = render(
        EXISTING,
        "spread.nodes.topologyKey=rack,spread.nodes.whenUnsatisfiable=DoNotSchedule",
        "spread.zones.topologyKey=",
    )
    for name in ("session/Deployment", "feedback/StatefulSet", "predictor/Deployment"):
        ((key, found),) = spread(pods(objects)[name]).items()
        assert (key, found["whenUnsatisfiable"]) == ("rack", "DoNotSchedule")
        assert "minDomains" not in found


def test_pods_that_mount_a_claim_of_one_node_share_the_node() -> None:
    objects = render(ONE_NODE)
    claims = ("tw-thumbwheel-models", "tw-thumbwheel-loop")
    found = mounting(objects, *claims)
    assert found >= {"session/Deployment", "gateway/Deployment", "predictor/Deployment"}
    assert "training/CronJob" in found
    groups = {name: shared_node(pod) for name, pod in pods(objects).items()}
    assert {name for name, group in groups.items() if group} == found
    assert len({tuple(groups[name]) for name in found}) == 1
    assert {name.split("/")[0] for name in found} <= {*groups["session/Deployment"]}


@pytest.mark.parametrize(
    ("modes", "is_bound"), [(["ReadWriteOnce"], True), (["ReadWriteOnce", "ReadWriteMany"], False)]
)
def test_modes_of_an_existing_claim_are_read_from_the_cluster(
    modes: list[str], is_bound: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path))
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "models", "namespace": "chat"},
        "spec": {"accessModes": modes},
    }
    words = ("template", "tw", str(CHART), "--namespace", "chat", "-f", str(VALUES / EXISTING))
    with serving([claim], kinds=render(EXISTING)) as url:
        server = ("--dry-run=server", "--disable-openapi-validation", "--kube-apiserver", url)
        result = helm(*words, *server)
    assert result.returncode == 0, result.stderr
    found = pods(parse(result.stdout))
    bound = {name.split("/")[0] for name, pod in found.items() if shared_node(pod)}
    assert bound == ({"session", "generator", "predictor", "model"} if is_bound else set())


@pytest.mark.parametrize(("values", "warns"), [(ONE_NODE, True), (EXISTING, False)])
def test_notes_warn_of_a_claim_of_one_node(values: str, warns: bool) -> None:
    words = ("install", "tw", str(CHART), "--dry-run=client", "-f", str(VALUES / values))
    result = helm(*words)
    assert result.returncode == 0, result.stderr
    assert ("only one node can mount the claim" in result.stdout.split("NOTES:")[1]) == warns


def test_pods_of_ray_share_the_node_of_a_claim() -> None:
    objects = render(ONE_NODE, "ray.mode=kuberay")
    found = pods(objects)
    for name in ("training/RayJob", "ray-worker/RayJob", "gateway/Deployment"):
        assert shared_node(found[name]) == shared_node(found["session/Deployment"]) != []


@pytest.mark.parametrize(
    "setting", ["", f"{OWN_CLAIM},models.accessModes={{ReadWriteMany}}"], ids=["existing", "shared"]
)
def test_pods_with_a_claim_of_several_nodes_are_free(setting: str) -> None:
    objects = render(EXISTING, setting) if setting else render(EXISTING)
    assert {name for name, pod in pods(objects).items() if shared_node(pod)} == set()


def test_a_claim_of_runs_on_one_node_does_not_bind_services_without_it() -> None:
    objects = render(EXISTING, "training.enabled=true,ray.mode=job")
    bound = {name for name, pod in pods(objects).items() if shared_node(pod)}
    assert bound == {"gateway/Deployment", "training/CronJob"}


def test_affinity_of_the_values_is_kept_beside_that_of_the_claim() -> None:
    preferred = "preferredDuringSchedulingIgnoredDuringExecution"
    own = f'{{"podAffinity": {{"{preferred}": []}}, "nodeAffinity": {{}}}}'
    objects = render(ONE_NODE, json_sets=(f"services.session.affinity={own}",))
    affinity = pods(objects)["session/Deployment"]["spec"]["affinity"]
    assert affinity.keys() == {"podAffinity", "nodeAffinity"}
    assert len(affinity["podAffinity"]) == 2


SIZES = (
    "serving.kserve.minReplicas=4,serving.kserve.maxReplicas=4",
    "serving.kserve.candidate.resources.requests.cpu=100m",
)
SHARE = ("serving.kserve.candidate.maxShare=0.2",)


def test_a_small_candidate_has_pods_and_resources_of_its_own() -> None:
    objects = render("kserve-values.yaml", *SIZES, json_sets=SHARE)
    maps = [item["data"] for item in of_kind(objects, "ConfigMap")]
    (data,) = [data for data in maps if CANDIDATE_KEY in data]
    full, small = (
        json.loads(data[key])["spec"]["predictor"] for key in (TEMPLATE_KEY, CANDIDATE_KEY)
    )
    assert [(size["minReplicas"], size["maxReplicas"]) for size in (full, small)] == [
        (4, 4),
        (1, 1),
    ]
    assert small["model"]["resources"] == {"requests": {"cpu": "100m"}}
    assert full["model"]["resources"]["requests"]["cpu"] == "250m"
    same = ("minReplicas", "maxReplicas", "model")
    assert [{k: v for k, v in size.items() if k not in same} for size in (full, small)] == [
        {k: v for k, v in full.items() if k not in same}
    ] * 2
    assert environment(objects, "generator")["TW_GENERATOR_SMALL_CANDIDATE_SHARE"] == "0.2"


def test_pods_of_each_version_are_spread_by_themselves() -> None:
    """Otherwise all pods of stable could be in one zone and those of the candidate in another."""
    first, second = (service_of("kserve-values.yaml", version=name) for name in ("v1", "v2"))
    for found in (first, second):
        for constraint in found["spec"]["predictor"]["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == {
                "serving.kserve.io/inferenceservice": found["metadata"]["name"]
            }
    assert first["metadata"]["name"] != second["metadata"]["name"]
