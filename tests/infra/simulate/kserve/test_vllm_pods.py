"""vLLM's CPU build in pods, with the chart's command, arguments, probes and preStop.

KServe is simulated, and the GPU that the chart requires is only a number on the node.
"""

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from infra.run.deploy import release
from infra.run.deploy.release import REPOSITORY
from tests.infra.run.deploy import vllm_programs
from tests.infra.run.deploy.clusters import empty_cluster
from tests.infra.simulate.kserve.served import NAMESPACE, World, empty_release, pods_of, until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.vllm,
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
]
START_SECONDS = 900.0
# Of dashboards, alerts, autoscaling and preStop.
METRICS = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:generation_tokens_total")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    state = tmp_path_factory.mktemp("vllm") / "cluster"
    with (
        empty_cluster(state, "vLLM is not tried in pods") as shell,
        empty_release(shell, ["training"]) as found,
    ):
        vllm_programs.advertise_gpus(shell, 2)
        vllm_programs.prepare(shell, state / "vllm-programs", release.NAMESPACE)
        found.change(vllm_programs.server_values(f"{REPOSITORY}-training:{found.tags['training']}"))
        found.install()
        yield found


def ask_pod(world: World, pod: Any, path: str) -> str:
    code = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000{path}').read().decode())"
    name = pod["metadata"]["name"]
    words = ["exec", name, "--container", "kserve-container", "--", "python3", "-c", code]
    return world.shell.run("kubectl", *NAMESPACE, *words)


def metric(text: str, name: str) -> dict[str, float]:
    """Return the values of a metric by the name of the model."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith(name + "{"):
            model = line.split('model_name="', 1)[1].split('"', 1)[0]
            found[model] = found.get(model, 0.0) + float(line.rsplit(" ", 1)[1])
    return found


def test_pod_of_vllm_answers_an_outside_user(world: World) -> None:
    until(lambda: world.chat()[0] == 200, START_SECONDS)
    (service,) = world.services().values()
    (pod,) = pods_of(world, service)
    assert json.loads(ask_pod(world, pod, "/version"))["version"] == "0.32.0"
    before = metric(ask_pod(world, pod, "/metrics"), METRICS[2])
    status, answer = world.chat()
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    after = ask_pod(world, pod, "/metrics")
    assert [set(metric(after, name)) for name in METRICS] == [{"nano-0"}] * len(METRICS)
    assert metric(after, METRICS[2])["nano-0"] > before["nano-0"]


def test_candidate_is_a_second_vllm_with_its_share(world: World) -> None:
    world.model("nano-b")
    started = world.rollout("start", "nano-b", str(START_SECONDS))
    assert "error" not in started, started
    assert set(world.services()) == {"nano-0", "nano-b"}
    assert set(world.rollout("users", "12")["versions"]) == {"nano-0", "nano-b"}
    for version, service in world.services().items():
        (pod,) = pods_of(world, service)
        assert set(metric(ask_pod(world, pod, "/metrics"), METRICS[2])) == {version}


def test_promotion_replaces_the_pod_without_failed_calls(world: World) -> None:
    """The pod of the version before ends by preStop, after the end of the watch."""
    failures: list[Any] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            status, answer = world.chat()
            failures.extend([answer] if status != 200 else [])

    assert "error" not in world.rollout("promote", "nano-b")
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        world.change({"services": {"generator": {"settings": {"watch_share": 0}}}})
        world.install()
        until(lambda: set(world.services()) == {"nano-b"}, 180)
        gone = "serving.kserve.io/inferenceservice"
        (service,) = world.services().values()
        until(
            lambda: (
                {pod["metadata"]["labels"][gone] for pod in world.get("pods", "-l", gone)["items"]}
                == {service["metadata"]["name"]}
            ),
            180,
        )
    finally:
        ended.set()
        asking.join()
    assert failures == []
    reasons = {event["reason"] for event in world.get("events")["items"]}
    assert "FailedPreStopHook" not in reasons
