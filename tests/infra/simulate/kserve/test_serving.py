"""Serving through KServe on a real cluster with a simulated KServe controller.

Versions are InferenceServices and their pods respond.
"""

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.machine.cluster.errors import ClusterError
from infra.run.deploy import release
from infra.run.deploy.__main__ import HTTP_PORT
from infra.run.deploy.cluster_shell import ClusterShell
from infra.run.deploy.port_forward import forward_port
from infra.run.deploy.release import load_images
from infra.run.deploy.storage import prepare_storage
from infra.simulate.kserve.running import controller, install_resources
from services.generator.kubernetes.inference_object import inference_service, read_template
from tests.infra.run.deploy.clusters import empty_cluster
from tests.journeys.client import Client
from tests.support.errors import refused

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
NAMESPACE = ["--namespace", release.NAMESPACE]
VALUES = release.CHART / "ci" / "kserve-values.yaml"
SCRIPT = Path(__file__).with_name("rollout_inside.py")
LOAD_SECONDS = 60
# A large share, so that few users are enough.
WATCH_SHARE = 0.5
# Longer than `unload_grace_seconds` and the interval of the reconcile loop.
RETIRED_SECONDS = 10
USER = 10001
# Status, reason and field of a version that cannot be loaded.
FAILED = ["FAILED_PRECONDITION", "VERSION_FAILED", "directory"]


@dataclass(frozen=True)
class World:
    """Cluster with the chart and a KServe controller that can be stopped."""

    shell: ClusterShell
    client: Client
    kserve: ExitStack
    tags: dict[str, str]
    values: Any

    def get(self, *words: str) -> Any:
        return json.loads(self.shell.run("kubectl", *NAMESPACE, "get", *words, "-o", "json"))

    def services(self) -> dict[str, Any]:
        """Return the InferenceServices by version."""
        return {
            each["metadata"]["annotations"]["thumbwheel/version"]: each
            for each in self.get("inferenceservices")["items"]
        }

    def rollout(self, *words: str) -> Any:
        pod = [
            "exec",
            "--stdin",
            f"deployment/{release.NAME}-generator",
            "--container",
            "generator",
            "--",
        ]
        output = self.shell.run(
            "kubectl", *NAMESPACE, *pod, "python3", "-", *words, stdin=SCRIPT.read_text()
        )
        return json.loads(output)

    def model(self, version: str) -> Path:
        """Copy the tiny model as a version into the claim; return the folder on this machine."""
        volume = self.get("pvc", f"{release.NAME}-models")["spec"]["volumeName"]
        claim = Path(self.get("pv", volume)["spec"]["local"]["path"])
        shutil.copytree(claim / "nano-0", claim / version)
        manifest = json.loads((claim / version / "manifest.json").read_text())
        (claim / version / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
        for path in (claim / version, *(claim / version).iterdir()):
            os.chown(path, USER, USER)
        return claim / version

    def install(self) -> None:
        """Install or upgrade to the current values."""
        release.install(self.shell, self.tags, self.values)

    def chat(self) -> tuple[int, Any]:
        body = {
            "model": "thumbwheel",
            "messages": [{"role": "user", "content": "Hello, how are you?"}],
        }
        return self.client.call("POST", "/v1/chat/completions", body)


def until(done: Callable[[], Any], seconds: float = 90.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it does not come about"
        time.sleep(1)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    state = tmp_path_factory.mktemp("kserve") / "cluster"
    with empty_cluster(state, "serving through KServe is not tried on a real cluster") as shell:
        yield from installed(shell)


def installed(shell: ClusterShell) -> Iterator[World]:
    values = yaml.safe_load(VALUES.read_text())
    # The script in the pod calls the generator as training and as the gateway.
    values["identity"] = {"mode": "none"}
    settings = {"load_seconds": LOAD_SECONDS, "watch_share": WATCH_SHARE}
    values["services"] = {"generator": {"settings": settings}}
    tags = load_images(shell, ("services", "predictor", "stores"), print)
    shell.run(
        "kubectl",
        "apply",
        "--server-side",
        "-f",
        "-",
        stdin=prepare_storage(shell.layout, release.NAMESPACE),
    )
    install_resources(shell)
    with ExitStack() as kserve:
        kserve.enter_context(controller(shell))
        release.install(shell, tags, values)
        port = forward_port(shell, 0, release.gateway_address(shell), HTTP_PORT)
        client = Client(f"http://127.0.0.1:{port}", release.owner_key(shell))
        yield World(shell, client, kserve, tags, values)


def pods_of(world: World, service: Any) -> list[Any]:
    label = f"serving.kserve.io/inferenceservice={service['metadata']['name']}"
    return list(world.get("pods", "--selector", label)["items"])


def served_pods(world: World) -> dict[str, set[str]]:
    """Return the uids of the pods by version."""
    return {
        version: {pod["metadata"]["uid"] for pod in pods_of(world, service)}
        for version, service in world.services().items()
    }


def answered(world: World, pod: Any) -> float:
    """Return the number of chats that a pod has served."""
    ask = (
        "import urllib.request as u; "
        "print(u.urlopen('http://127.0.0.1:9000/metrics').read().decode())"
    )
    name = pod["metadata"]["name"]
    output = world.shell.run(
        "kubectl",
        *NAMESPACE,
        "exec",
        name,
        "--container",
        "kserve-container",
        "--",
        "python3",
        "-c",
        ask,
    )
    lines = [
        line
        for line in output.splitlines()
        if 'endpoint="/v1/chat/completions"' in line and 'status="200"' in line
    ]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if "_created" not in line)


def test_pod_of_inference_service_answers_an_outside_user(world: World) -> None:
    until(lambda: world.chat()[0] == 200)
    (service,) = world.services().values()
    (pod,) = pods_of(world, service)
    before = answered(world, pod)
    status, answer = world.chat()
    assert status == 200
    assert answer["choices"][0]["message"]["content"]
    assert answered(world, pod) == before + 1


def test_api_server_stores_every_field(world: World) -> None:
    template = read_template(world.get("configmap", f"{release.NAME}-inference-service"))
    ((version, found),) = world.services().items()
    wanted = inference_service(template, version, "nano-0")
    assert found["spec"] == wanted["spec"]
    assert found["metadata"]["ownerReferences"] == wanted["metadata"]["ownerReferences"]
    told = world.get("inferenceservices", "--show-managed-fields")["items"][0]["metadata"][
        "managedFields"
    ]
    assert {(each["manager"], each["operation"], each.get("subresource")) for each in told} == {
        ("thumbwheel-generator", "Apply", None),
        ("thumbwheel-cluster", "Update", "status"),
    }
    manifest = world.shell.run("helm", "get", "manifest", release.NAME, *NAMESPACE)
    (runtime,) = [
        each for each in yaml.safe_load_all(manifest) if each and each["kind"] == "ServingRuntime"
    ]
    assert world.get("servingruntime", runtime["metadata"]["name"])["spec"] == runtime["spec"]


def test_api_server_rejects_unknown_field(world: World) -> None:
    (found,) = world.services().values()
    wrong = {key: found[key] for key in ("apiVersion", "kind")}
    wrong["metadata"] = {"name": "wrong", "namespace": release.NAMESPACE}
    wrong["spec"] = {"predictor": found["spec"]["predictor"] | {"maxReplica": 2}}
    with refused(ClusterError, field="kubectl", reason="FAILED") as caught:
        world.shell.run(
            "kubectl",
            "apply",
            "--server-side",
            "--validate=strict",
            "-f",
            "-",
            stdin=json.dumps(wrong),
        )
    assert "maxReplica" in caught.value.text


def test_candidate_gets_its_share(world: World) -> None:
    (old,) = world.services()
    world.model("nano-b")
    started = world.rollout("start", "nano-b")
    assert "error" not in started, started
    assert started["rollout"]["candidate"]["state"] == "VERSION_STATE_READY"
    assert set(world.services()) == {old, "nano-b"}
    assert set(world.rollout("users", "12")["versions"]) == {old, "nano-b"}


def test_version_before_a_promotion_stays_served_during_the_watch(world: World) -> None:
    before = served_pods(world)
    assert "error" not in world.rollout("promote", "nano-b")
    time.sleep(RETIRED_SECONDS)
    assert served_pods(world) == before
    assert set(world.rollout("users", "12")["versions"]) == set(before)
    assert world.chat()[0] == 200


def test_upgrade_replaces_pods_without_failed_calls_and_ends_the_watch(
    world: World,
) -> None:
    """KServe reports Unknown during this time."""
    before = world.services()["nano-b"]
    old = {pod["metadata"]["uid"] for pod in pods_of(world, before)}
    world.values["serving"]["kserve"]["drainSeconds"] = 60
    world.values["services"]["generator"]["settings"]["watch_share"] = 0
    upgrading, failures = threading.Thread(target=world.install), []
    upgrading.start()

    def replaced() -> bool:
        status, answer = world.chat()
        failures.extend([answer] if status != 200 else [])
        now = world.services()["nano-b"]
        if upgrading.is_alive() or now["spec"]["predictor"]["terminationGracePeriodSeconds"] != 80:
            return False
        pods = pods_of(world, now)
        return bool(pods) and not old & {pod["metadata"]["uid"] for pod in pods}

    until(replaced, 240)
    upgrading.join()
    # Without a share the watch ends, and the version before is retired.
    until(lambda: set(world.services()) == {"nano-b"})
    assert set(world.rollout("users", "4")["versions"]) == {"nano-b"}
    after = world.services()["nano-b"]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert failures == []


def test_failed_load_reports_the_reason_of_its_pod(world: World) -> None:
    folder = world.model("nano-c")
    tokenizer = folder / "tokenizer.json"
    # Still a tokenizer for the generator, but not the one of the manifest.
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\n")
    started = world.rollout("start", "nano-c")
    assert started["refusal"][:3] == FAILED, started
    for word in ("ModelLoadFailed", "nano-c", "manifest.json", "tokenizer.json"):
        assert word in started["error"]
    assert started["rollout"]["history"][0]["kind"] == "rolled_back"
    until(lambda: set(world.services()) == {"nano-b"})


def test_stopped_controller_keeps_serving_and_load_reports_the_wait(
    world: World,
) -> None:
    world.kserve.close()
    assert world.chat()[0] == 200
    world.model("nano-d")
    started = world.rollout("start", "nano-d")
    assert started["refusal"][:3] == FAILED, started
    # KServe has not reported a status.
    for word in (f"{LOAD_SECONDS} s", "KServe"):
        assert word in started["error"]
    assert world.chat()[0] == 200
    until(lambda: set(world.services()) == {"nano-b"})


def test_uninstall_removes_objects_of_the_generator(world: World) -> None:
    assert world.services()
    world.shell.run("helm", "uninstall", release.NAME, *NAMESPACE, "--wait", "--timeout", "120s")
    until(
        lambda: (
            not world.get(
                "inferenceservices,deployments,services",
                "-l",
                f"app.kubernetes.io/instance={release.NAME}",
            )["items"]
        )
    )
