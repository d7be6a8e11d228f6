"""Serving through KServe on a real cluster with a simulated KServe controller.

Versions are InferenceServices and their pods respond.
"""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from infra.machine.cluster.errors import ClusterError
from infra.run.deploy import release
from services.generator.kubernetes.inference_object import inference_service, read_template
from tests.infra.run.deploy.clusters import empty_cluster
from tests.infra.simulate.kserve.served import (
    NAMESPACE,
    World,
    empty_release,
    pods_of,
    served_pods,
    until,
)
from tests.support.errors import refused

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
LOAD_SECONDS = 60
# Longer than `unload_grace_seconds` and the interval of the reconcile loop.
RETIRED_SECONDS = 10
# Status, reason and field of a version that cannot be loaded.
FAILED = ["FAILED_PRECONDITION", "VERSION_FAILED", "directory"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    state = tmp_path_factory.mktemp("kserve") / "cluster"
    with (
        empty_cluster(state, "serving through KServe is not tried on a real cluster") as shell,
        empty_release(shell) as found,
    ):
        settings = {"load_seconds": LOAD_SECONDS}
        found.change({"services": {"generator": {"settings": settings}}})
        found.install()
        yield found


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
