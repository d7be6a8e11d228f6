"""The chart rendered by Helm, and what tests ask of it."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.cluster.installation import locate

CHART = Path(__file__).resolve().parents[2] / "charts" / "thumbwheel"
VALUES = CHART / "ci"
FILES = sorted(path.name for path in VALUES.glob("*-values.yaml"))
Object = Mapping[str, Any]
RUNNING = ("Deployment", "StatefulSet", "Job")
OPERATORS = (
    "kafka.strimzi.io/v1/Kafka",
    "keda.sh/v1alpha1/ScaledObject",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "ray.io/v1/RayJob",
    "serving.kserve.io/v1alpha1/ServingRuntime",
    "serving.kserve.io/v1beta1/InferenceService",
)


def every_file(*quick: str) -> pytest.MarkDecorator:
    """Parametrize tests with renderings of their own by values file; files outside `quick` are long
    tests.
    """
    return pytest.mark.parametrize(
        "values",
        [name if name in quick else pytest.param(name, marks=pytest.mark.long) for name in FILES],
    )


def helm(*words: str, before: bool = False) -> subprocess.CompletedProcess[str]:
    """Helm 4, or the one before it."""
    tools = locate()
    binary = (tools.helm3 if before else tools.clients) / "helm"
    assert binary.exists(), "no Helm: python -m infra.cluster clients"
    return subprocess.run(
        [str(binary), *words], capture_output=True, text=True, check=False, timeout=60
    )


@cache
def render(values: str, *sets: str, release: str = "tw", before: bool = False) -> Sequence[Object]:
    """All objects of a values file of `ci/`, with more said by --set."""
    more = [word for each in sets for word in ("--set", each)]
    operators = [word for each in OPERATORS for word in ("--api-versions", each)]
    done = helm(
        "template",
        release,
        str(CHART),
        "--namespace",
        "chat",
        "-f",
        str(VALUES / values),
        *operators,
        *more,
        before=before,
    )
    assert done.returncode == 0, done.stderr
    return parse(done.stdout)


def parse(manifests: str) -> list[Object]:
    """Parse all objects of a rendering with libyaml, in a fifth of the time of the Python loader."""
    return [found for found in yaml.load_all(manifests, yaml.CSafeLoader) if found]


def refusal(values: str, *sets: str, before: bool = False) -> str:
    """What Helm says instead of rendering."""
    more = [word for each in sets for word in ("--set", each)]
    done = helm("template", "tw", str(CHART), "-f", str(VALUES / values), *more, before=before)
    assert done.returncode != 0, "Helm rendered it"
    return done.stderr


def of_kind(objects: Sequence[Object], *kinds: str) -> list[Object]:
    return [found for found in objects if found["kind"] in kinds]


def component(found: Object) -> str:
    return str(found["metadata"]["labels"]["app.kubernetes.io/component"])


def pods(objects: Sequence[Object]) -> dict[str, Any]:
    """The pod specs by component; of jobs too, by the clock or by KubeRay."""
    found = {
        f"{component(each)}/{each['kind']}": each["spec"]["template"]
        for each in of_kind(objects, *RUNNING)
    }
    for each in of_kind(objects, "CronJob"):
        pod = each["spec"]["jobTemplate"]["spec"]["template"]
        found[f"{component(pod)}/CronJob"] = pod
    return found | {f"{component(pod)}/RayJob": pod for pod in ray_pods(objects)}


def ray_job(objects: Sequence[Object]) -> Any:
    """What the launcher fills in; None: there is no launcher."""
    templates = [
        each["data"]["rayjob.json"]
        for each in of_kind(objects, "ConfigMap")
        if component(each) == "launcher"
    ]
    return json.loads(templates[0]) if templates else None


def ray_pods(objects: Sequence[Object]) -> Iterator[Any]:
    """Submitter, head and workers. The head runs what the RayJob says, so it stands there as its
    words.
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
    return [one for spec in specs for one in (*spec.get("initContainers", ()), *spec["containers"])]


def runtime_containers(objects: Sequence[Object]) -> list[Any]:
    """Of which KServe makes pods."""
    return [
        one for each in of_kind(objects, "ServingRuntime") for one in each["spec"]["containers"]
    ]
