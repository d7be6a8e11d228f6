"""Renderings of the chart by Helm, and queries on their objects."""

import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.machine.cluster.installation import locate

CHART = Path(__file__).resolve().parents[2] / "charts" / "thumbwheel"
VALUES = CHART / "ci"
FILES = sorted(path.name for path in VALUES.glob("*-values.yaml"))
Object = Mapping[str, Any]
RUNNING = ("Deployment", "StatefulSet", "Job")
OPERATORS = (
    "cert-manager.io/v1/Certificate",
    "kafka.strimzi.io/v1/Kafka",
    "keda.sh/v1alpha1/ScaledObject",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "ray.io/v1/RayJob",
    "serving.kserve.io/v1alpha1/ServingRuntime",
    "serving.kserve.io/v1beta1/InferenceService",
)


def every_file(*quick: str) -> pytest.MarkDecorator:
    """Parametrize tests that render on their own by values file.

    Files outside of `quick` are long tests.
    """
    return pytest.mark.parametrize(
        "values",
        [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in FILES],
    )


def helm(*arguments: str, helm3: bool = False) -> subprocess.CompletedProcess[str]:
    """Run Helm 4, or Helm 3 if `helm3` is set."""
    tools = locate()
    binary = (tools.helm3 if helm3 else tools.clients) / "helm"
    assert binary.exists(), "Helm is missing, run python -m infra.machine.cluster clients"
    return subprocess.run(
        [str(binary), *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@cache
def render(
    values: str,
    *sets: str,
    json_sets: Sequence[str] = (),
    release: str = "tw",
    namespace: str = "chat",
    helm3: bool = False,
    upgrade: bool = False,
    operators: Sequence[str] = OPERATORS,
) -> Sequence[Object]:
    """Return all objects of a values file of `ci/`.

    Args:
        sets: values for --set.
        json_sets: values for --set-json, as a tuple.
        operators: kinds of operators that the cluster has.
    """
    options = [argument for item in sets for argument in ("--set", item)]
    options += [argument for item in json_sets for argument in ("--set-json", item)]
    kinds = [argument for item in operators for argument in ("--api-versions", item)]
    result = helm(
        "template",
        release,
        str(CHART),
        "--namespace",
        namespace,
        "-f",
        str(VALUES / values),
        *kinds,
        *options,
        *(["--is-upgrade"] if upgrade else []),
        helm3=helm3,
    )
    assert result.returncode == 0, result.stderr
    return parse(result.stdout)


def parse(manifests: str) -> list[Object]:
    """Parse all objects of a rendering with libyaml, five times as fast as in Python."""
    return [found for found in yaml.load_all(manifests, yaml.CSafeLoader) if found]


def refusal(values: str, *sets: str, helm3: bool = False, files: Sequence[Path] = ()) -> str:
    """Return Helm's error for these values; `files` are further files with values."""
    options = [argument for item in sets for argument in ("--set", item)]
    options += [argument for file in files for argument in ("-f", str(file))]
    result = helm("template", "tw", str(CHART), "-f", str(VALUES / values), *options, helm3=helm3)
    assert result.returncode != 0, "Helm accepted the values"
    return result.stderr


def errors(output: str) -> list[str]:
    """Return the errors of templates in Helm's output, and check that nothing else failed."""
    place = r"Error: execution error at \(thumbwheel/templates/validation\.yaml:\d+:\d+\): "
    found = re.fullmatch(place + r"(.+?)\n\n.*", output, re.DOTALL)
    assert found, output
    first, *rest = found[1].split("\n")
    if not rest:
        return [first]
    assert first == f"{len(rest)} errors:"
    return rest


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def component(found: Object) -> str:
    return str(found["metadata"]["labels"]["app.kubernetes.io/component"])


def pods(objects: Sequence[Object]) -> dict[str, Any]:
    """Return the pod specs by component and kind, including jobs of CronJobs and of KubeRay."""
    found = {
        f"{component(item)}/{item['kind']}": item["spec"]["template"]
        for item in of_kind(objects, *RUNNING)
    }
    for item in of_kind(objects, "CronJob"):
        pod = item["spec"]["jobTemplate"]["spec"]["template"]
        found[f"{component(pod)}/CronJob"] = pod
    return found | {f"{component(pod)}/RayJob": pod for pod in ray_pods(objects)}


def ray_job(objects: Sequence[Object]) -> Any:
    """Return the launcher's RayJob template, or None without a launcher."""
    templates = [
        item["data"]["rayjob.json"]
        for item in of_kind(objects, "ConfigMap")
        if component(item) == "launcher"
    ]
    return json.loads(templates[0]) if templates else None


def ray_pods(objects: Sequence[Object]) -> Iterator[Any]:
    """Yield submitter, head and workers.

    The head runs the entrypoint of the RayJob, which is therefore set as its arguments.
    """
    if (job := ray_job(objects)) is None:
        return
    yield job["spec"]["submitterPodTemplate"]
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]
    (container,) = head["spec"]["containers"]
    yield {
        **head,
        "spec": {
            **head["spec"],
            "containers": [{**container, "args": job["spec"]["entrypoint"].split()}],
        },
    }
    yield from (group["template"] for group in cluster["workerGroupSpecs"])


def containers(objects: Sequence[Object]) -> list[Any]:
    specs = [pod["spec"] for pod in pods(objects).values()]
    return [
        container
        for spec in specs
        for container in (*spec.get("initContainers", ()), *spec["containers"])
    ]


def runtime_containers(objects: Sequence[Object]) -> list[Any]:
    """Return the containers of ServingRuntimes, from which KServe creates pods."""
    return [
        container
        for item in of_kind(objects, "ServingRuntime")
        for container in item["spec"]["containers"]
    ]


def mounted_secrets(objects: Sequence[Object], name: str) -> dict[str, Any]:
    """Return the secret of the volume `name` by component.

    Checks that the first container of each pod mounts it at `/name` without write access, and that
    only the owner and the group may read it.
    """
    found = {}
    for pod_name, pod in pods(objects).items():
        for volume in pod["spec"].get("volumes", ()):
            if volume["name"] == name:
                mount = {"name": name, "mountPath": f"/{name}", "readOnly": True}
                assert mount in pod["spec"]["containers"][0]["volumeMounts"]
                assert volume["secret"]["defaultMode"] == 0o440
                found[pod_name.split("/")[0]] = volume["secret"]
    return found


def outside_ports(policy: Any) -> set[int]:
    """Return the ports of the egress rules of a policy to addresses outside the release.

    Args:
        policy: `spec` of a NetworkPolicy.
    """
    return {
        port["port"]
        for rule in policy.get("egress") or ()
        if any("ipBlock" in peer for peer in rule.get("to", ()))
        for port in rule["ports"]
    }
