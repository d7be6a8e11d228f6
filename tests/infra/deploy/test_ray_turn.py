"""Turns as RayJobs of the real KubeRay operator: whatever dies, there is one turn, and it ends
right; whatever keeps one from starting is said on the page.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from infra.cluster.errors import ClusterError
from infra.deploy.training import RayMode, chart_values
from tests.infra.deploy.clusters import deployed_cluster
from tests.infra.deploy.deployed import overlaid, rows, until
from tests.infra.deploy.raters import THUMBS, keys, people_rate, people_rate_while
from tests.infra.deploy.turns import TRAINING, Turns

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]
NAME = "thumbwheel-turn"
HEAD, WORKER = "ray.io/node-type=head", "ray.io/node-type=worker"
FILL_SECONDS, STEP_SECONDS, TURN_SECONDS = 900.0, 300.0, 1500.0
Changes = Mapping[str, Any]


@pytest.fixture(scope="module")
def turns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Turns]:
    """A cluster of its own, with the operator."""
    state = tmp_path_factory.mktemp("ray") / "cluster"
    with deployed_cluster(
        state, "turns are not tried as RayJobs", "--training", "kuberay", seconds=900
    ) as deployed:
        yield Turns(deployed)


def configure(turns: Turns, changes: Changes) -> None:
    """Another turn than the chart's, the rest as it is."""
    turns.deployed.install(chart_values(RayMode.KUBERAY), images(turns), changes)


def images(turns: Turns) -> Changes:
    repository, tag = turns.deployed.image("training").rsplit(":", 1)
    return {"images": {"training": {"repository": repository, "tag": tag}}}


def ray_jobs(turns: Turns, *more_words: str) -> list[dict[str, Any]]:
    return turns.deployed.objects("rayjobs", *more_words)


def ray_pods(turns: Turns, selector: str) -> dict[str, str]:
    """Uid by name."""
    found = turns.deployed.objects("pods", "--selector", selector)
    return {
        pod["metadata"]["name"]: pod["metadata"]["uid"]
        for pod in found
        if pod["status"]["phase"] == "Running"
    }


def kill(turns: Turns, *names: str) -> None:
    turns.deployed.kubectl("delete", "pod", *names, "--grace-period=0", "--force")


FAR = {"training": {"deadlineSeconds": 45, "retries": 0}}
# What is said of each: its part of the cluster of Ray, and names of ours and of Kubernetes.
HINDRANCES: dict[str, tuple[Changes, tuple[str, ...]]] = {
    "an image that is nowhere": (
        {"images": {"training": {"repository": "localhost/thumbwheel-nowhere"}}},
        ("head", "localhost/thumbwheel-nowhere"),
    ),
    "more than any node has": (
        {"ray": {"workers": {"resources": {"requests": {"cpu": "64"}}}}},
        ("worker", "Insufficient cpu"),
    ),
    "a volume that is not there": (
        {"training": {"extraVolumes": [{"name": "packages", "configMap": {"name": "nowhere"}}]}},
        ("head", "FailedMount"),
    ),
    "a pod that the standard refuses": (
        {"training": {"extraVolumes": [{"name": "packages", "hostPath": {"path": "/"}}]}},
        ("violates PodSecurity",),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", HINDRANCES)
def test_what_keeps_a_turn_from_starting_is_said_and_a_turn_past_its_deadline_is_removed(
    turns: Turns, case: str
) -> None:
    changes, named = HINDRANCES[case]
    configure(turns, overlaid(FAR, changes))
    name = f"turn-{sorted(HINDRANCES).index(case)}-of-none"
    turns.begin(name)
    until(
        f"the page names {', '.join(named)}",
        lambda: all(word in details(turns.shown()) for word in named),
        60,
    )
    assert turns.shown()["result"] is None
    assert turns.wait_ended(name, STEP_SECONDS) == "Failed"
    status = turns.shown()
    assert status["result"] == "failed"
    for word in ("45 s", *named):
        assert word in status["reason"]
    assert turns.result("failed")
    until("its RayJob is gone", lambda: not ray_jobs(turns))


def details(status: Mapping[str, Any]) -> str:
    return "; ".join(step["detail"] for step in status.get("steps", ()))


@pytest.mark.long
def test_an_application_that_fails_is_said_with_its_exit_status(turns: Turns) -> None:
    configure(turns, {"training": {"retries": 0, "extraArgs": ["--no-such-word"]}})
    turns.begin("turn-of-none")
    assert turns.wait_ended("turn-of-none", STEP_SECONDS) == "Failed"
    assert turns.shown()["result"] == "failed"
    assert re.search(r"\b2\b", turns.shown()["reason"])
    assert turns.result("failed")


@pytest.mark.long
def test_a_turn_whose_launcher_worker_and_head_die_is_one_turn_and_its_version_is_promoted(
    turns: Turns,
) -> None:
    configure(turns, {})
    people = keys(turns.deployed)
    given = people_rate(turns.deployed, people, THUMBS, FILL_SECONDS)
    assert given.thumbs == THUMBS
    until(
        "all is in the bucket",
        lambda: rows(turns.deployed.audit(), "feedback") >= given.events,
        STEP_SECONDS,
    )
    turns.begin("turn-1")
    # The one before has the same name, and makes room.
    until(
        "its RayJob is there",
        lambda: len(ray_jobs(turns, "--selector", "thumbwheel/turn=turn-1")) == 1,
    )
    uid = ray_jobs(turns)[0]["metadata"]["uid"]
    launcher_dies(turns, uid)
    worker_dies(turns)
    head_dies(turns)
    turns.begin("turn-2")  # while the first one runs: it follows that, and makes none
    until("the canary begins", lambda: at_canary(turns), TURN_SECONDS)
    assert [job["metadata"]["uid"] for job in ray_jobs(turns)] == [uid], (
        "one turn, whoever asked for it"
    )
    trial = people_rate_while(
        turns.deployed, people, lambda: not turns.ended("turn-1"), TURN_SECONDS
    )
    assert (turns.ended("turn-1"), turns.wait_ended("turn-2", 60)) == ("Complete", "Complete")
    status = turns.shown()
    assert (status["run"], status["result"]) == ("nano-1", "promoted"), json.dumps(status, indent=1)
    assert [step["state"] for step in status["steps"]] == ["done"] * len(status["steps"])
    assert "resumed with" in details(status)
    assert trial.by_version.get("nano-1", 0) > 0
    assert turns.result("promoted")
    assert turns.answering_version() == "nano-1"


def launcher_dies(turns: Turns, uid: str) -> None:
    """The next one takes up what is there."""
    kill(turns, *(pod["metadata"]["name"] for pod in turns.pods_of("turn-1")))
    until(
        "another launcher follows it",
        lambda: NAME in turns.log("turn-1") and bool(turns.pods_of("turn-1")),
    )
    assert [job["metadata"]["uid"] for job in ray_jobs(turns)] == [uid]


def worker_dies(turns: Turns) -> None:
    """Ray Train starts the group again, from its checkpoint."""
    until("it trains", lambda: turns.shown().get("step") in TRAINING, TURN_SECONDS)
    before = ray_pods(turns, WORKER)
    kill(turns, *before)
    until(
        "another worker runs",
        lambda: bool(ray_pods(turns, WORKER).items() - before.items()),
        STEP_SECONDS,
    )


def head_dies(turns: Turns) -> None:
    """With it the whole cluster of Ray: KubeRay makes another one, which goes on from the files."""
    until("it trains again", lambda: turns.shown().get("step") in TRAINING, STEP_SECONDS)
    before = ray_pods(turns, HEAD)
    began = time.monotonic()
    kill(turns, *before)
    until(
        "another head runs",
        lambda: bool(ray_pods(turns, HEAD).items() - before.items()),
        STEP_SECONDS,
    )
    print(f"\nanother head after {time.monotonic() - began:.0f} s")


def at_canary(turns: Turns) -> bool:
    try:
        return turns.shown().get("step") == "canary" or bool(turns.ended("turn-1"))
    except ClusterError:  # the API server is busy
        return False
