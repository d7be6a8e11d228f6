"""A run of the loop as a Job on a real cluster: thumbs lead to a promoted version."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.infra.run.deploy.clusters import deployed_cluster
from tests.infra.run.deploy.deployed import rows, until
from tests.infra.run.deploy.loop_runs import TRAINING, LoopRuns
from tests.infra.run.deploy.raters import THUMBS, keys, rate, rate_while

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]
# Time limits for a machine with other load.
DEPLOY_SECONDS, FILL_SECONDS, STEP_SECONDS, TURN_SECONDS = 1800.0, 900.0, 300.0, 1500.0


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopRuns]:
    """Separate cluster where a run is a pod with the whole training image.

    Other tests do not load the image.
    """
    state = tmp_path_factory.mktemp("turn") / "cluster"
    words = ("--training", "local", "--whole")
    with deployed_cluster(
        state, "a turn is not tried on a real cluster", *words, seconds=DEPLOY_SECONDS
    ) as deployed:
        yield LoopRuns(deployed)


@pytest.mark.long
def test_too_little_feedback_completes_without_failure(runs: LoopRuns) -> None:
    runs.start_run("turn-0")
    assert runs.wait_ended("turn-0", STEP_SECONDS) == "Complete"
    assert runs.status()["result"] == "not_enough_feedback"
    assert runs.status()["needed_thumbs"] == 200


@pytest.mark.long
def test_thumbs_lead_to_a_promoted_version(runs: LoopRuns) -> None:
    """Kill the training pod in the middle, and request a second run."""
    people = keys(runs.deployed)
    given = rate(runs.deployed, people, THUMBS, FILL_SECONDS)
    assert given.thumbs == THUMBS
    until(
        "all is in the bucket",
        lambda: rows(runs.deployed.audit(), "feedback") >= given.events,
        STEP_SECONDS,
    )
    runs.start_run("turn-1")
    kill_training_pod(runs)
    check_second_run_is_rejected(runs)
    # Thumbs are not needed before the canary.
    until(
        "the canary begins",
        lambda: runs.status().get("step") == "canary" or bool(runs.ended("turn-1")),
        TURN_SECONDS,
    )
    trial = rate_while(runs.deployed, people, lambda: not runs.ended("turn-1"), TURN_SECONDS)
    assert runs.wait_ended("turn-1", STEP_SECONDS) == "Complete"
    status = runs.status()
    assert (status["run"], status["result"]) == ("nano-1", "promoted"), json.dumps(status, indent=1)
    assert [step["state"] for step in status["steps"]] == ["done"] * len(status["steps"])
    assert "resumed with" in status["steps"][0]["detail"]
    assert trial.by_version.get("nano-1", 0) > 0
    assert runs.has_result("promoted")
    assert runs.served_version() == "nano-1"


def kill_training_pod(runs: LoopRuns) -> None:
    """Kill the pod; its replacement waits for the lock and resumes."""
    until("it trains", lambda: runs.status().get("step") in TRAINING, TURN_SECONDS)
    (pod,) = runs.pods_of("turn-1")
    runs.deployed.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    until(
        "the next one has taken it up", lambda: "resumed with" in runs.log("turn-1"), STEP_SECONDS
    )


def check_second_run_is_rejected(runs: LoopRuns) -> None:
    """Check that a second run fails with a single line and without a retry."""
    runs.start_run("turn-2", "--patience", "1s")
    assert runs.wait_ended("turn-2", STEP_SECONDS) == "Failed"
    assert re.search(r"\b1\b.*\bnano\b.*\b20\d\d-", runs.log("turn-2")), (
        "which process and recipe, and since when"
    )
    assert len(runs.pods_of("turn-2")) == 1
