"""Every object of every values file is taken by a real API server as it stands: each field known, also of other operators'
resources, whose definitions are their makers' own, and no pod beyond the restricted standard.
"""

import json
from collections.abc import Iterator, Sequence

import pytest

from infra.cluster.errors import ClusterError
from infra.definitions.installation import find_installed as find_definitions
from infra.definitions.known import make_known
from infra.deploy.inside import Inside
from infra.deploy.storage import RESTRICTED
from infra.kuberay.installation import find_installed as find_kuberay
from tests.charts.rendering import CHART, VALUES, Object, ray_job, render
from tests.infra.deploy.clusters import bare_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
FEW, KEYS = "one-node-values.yaml", "tw-thumbwheel-keys"
MAKERS = ("gateway-api", "keda", "kserve-0_20", "prometheus-operator", "strimzi")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """An API server that knows all operators' resources and runs nothing."""
    state = tmp_path_factory.mktemp("admission") / "cluster"
    with bare_cluster(state, "the chart's objects are not shown to a real API server") as cluster:
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "chat", "labels": RESTRICTED}}
        cluster.run("kubectl", "apply", "-f", "-", said=json.dumps(namespace))
        make_known(cluster, *(find_definitions() / maker for maker in MAKERS), find_kuberay().definitions)
        yield cluster


def try_apply(inside: Inside, objects: Sequence[Object]) -> str:
    """What the server says; nothing is stored."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    command = "kubectl apply --server-side --dry-run=server --validate=strict --namespace chat -f - 2>&1"
    return inside.run("sh", "-c", command, said=listed)


@pytest.mark.parametrize("values", sorted(path.name for path in VALUES.glob("*-values.yaml")))
def test_every_object_is_taken_and_no_warning_given(inside: Inside, values: str) -> None:
    objects = [*render(values), *([job] if (job := ray_job(render(values))) else [])]
    said = try_apply(inside, objects).splitlines()
    assert [line for line in said if not line.endswith("serverside-applied (server dry run)")] == []
    assert len(said) == len(objects)


@pytest.mark.parametrize("kind", ["KafkaUser", "ScaledObject", "PodMonitor", "HTTPRoute", "RayJob"])
def test_a_field_that_its_maker_does_not_know_is_refused(inside: Inside, kind: str) -> None:
    found = {each["kind"]: each for name in ("strimzi", "everything") for each in render(f"{name}-values.yaml")}
    found = {**found, "RayJob": ray_job(render("ray-values.yaml"))}[kind]
    with pytest.raises(ClusterError, match="notAField"):
        try_apply(inside, [{**found, "spec": {**found["spec"], "notAField": 1}}])


def test_the_oldest_kserve_takes_what_the_newest_does(inside: Inside) -> None:
    make_known(inside, find_definitions() / "kserve-0_15")
    for path in VALUES.glob("*-values.yaml"):
        served = [found for found in render(path.name) if found["apiVersion"].startswith("serving.kserve.io/")]
        if served:
            try_apply(inside, served)


def test_a_release_of_helm_3_goes_on_with_helm_4_and_back(inside: Inside) -> None:
    """No pod runs for it: the objects are what the two must agree about."""
    none = ["--set", "serviceDefaults.replicas=0", "--set", "services.gateway.podAnnotations.by=helm"]
    words = ["upgrade", "--install", "tw", str(CHART), "--namespace", "chat", "--values", str(VALUES / FEW), *none]

    def keys() -> object:
        return json.loads(inside.run("kubectl", "--namespace", "chat", "get", "secret", KEYS, "-o", "json"))["data"]

    inside.run(str(inside.tools.helm3 / "helm"), *words)
    first = keys()
    inside.run("helm", *words, "--set", "door.httpPort=81")
    inside.run("helm", "rollback", "tw", "1", "--namespace", "chat")
    told = json.loads(inside.run("helm", "history", "tw", "--namespace", "chat", "--output", "json"))
    assert [each["status"] for each in told] == ["superseded", "superseded", "deployed"]
    assert keys() == first
    door = inside.run("kubectl", "--namespace", "chat", "get", "service", "tw-thumbwheel-door", "-o", "json")
    assert [port["port"] for port in json.loads(door)["spec"]["ports"]] == [80, 50051]
