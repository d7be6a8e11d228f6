"""Runs in one pod: Ray inside the pod of a Job, or one process without Ray.

The packages of the training image come from a volume; its own are tried by test_training_image.py.
"""

import pytest

from infra.run.deploy.training import RayMode, chart_values
from tests.infra.run.deploy.clusters import TRAINING_RUNS
from tests.infra.run.deploy.deployed import until
from tests.infra.run.deploy.loop_runs import TRAINING, LoopRuns
from tests.infra.run.deploy.raters import fill_bucket, keys

pytestmark = [*TRAINING_RUNS, pytest.mark.long]
RAY_MODE, UNTRIED = "job", "runs are not tried in one pod"
STEP_SECONDS, TURN_SECONDS = 300.0, 1500.0
CHECKPOINTS = "checkpoints/"


@pytest.mark.parametrize("mode", [RayMode.JOB, RayMode.LOCAL])
def test_killed_run_continues_from_checkpoints_in_the_bucket(runs: LoopRuns, mode: RayMode) -> None:
    deployed, name = runs.deployed, f"turn-{mode}"
    # Without users: a canary ends by its time.
    canary = {"training": {"canary": {"seconds": 30, "users": 1, "steps": ""}}}
    deployed.install(chart_values(mode), deployed.images("training"), canary)
    fill_bucket(deployed, keys(deployed))
    before = deployed.bucket(CHECKPOINTS)
    runs.start_run(name)
    until("it trains", lambda: runs.status().get("step") in TRAINING, TURN_SECONDS)
    until(
        "a checkpoint is in the bucket",
        lambda: bool(deployed.bucket(CHECKPOINTS) - before),
        STEP_SECONDS,
    )
    (pod,) = runs.pods_of(name)
    deployed.kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force")
    assert runs.wait_ended(name, TURN_SECONDS) == "Complete", runs.log(name)
    status = runs.status()
    details = {step["name"]: step["detail"] for step in status["steps"]}
    assert "resumed with" in details["snapshot"], status
    states = {step["name"]: step["state"] for step in status["steps"]}
    assert [states[step] for step in TRAINING] == ["done"] * len(TRAINING), status
