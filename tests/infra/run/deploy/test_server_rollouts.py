"""Run of the recipe auto as a RayJob, with rollouts by the predictor in the worker's pod."""

import json

import pytest

from tests.infra.run.deploy import server_rollouts
from tests.infra.run.deploy.clusters import TRAINING_RUNS
from tests.infra.run.deploy.loop_runs import LoopRuns
from tests.infra.run.deploy.models import claim_folder, install_copy, promote
from tests.infra.run.deploy.raters import fill_bucket, keys
from tests.infra.run.deploy.server_rollouts import MISMATCH_NATS, mismatches, run_folder

pytestmark = [*TRAINING_RUNS, pytest.mark.long]
# Nano under a name without a recipe of its own.
BASE = "tiny-0"
RUN_SECONDS = 2400.0
RAY_MODE, UNTRIED = "kuberay", "model servers sample for no RayJob"
UPDATES = 2
FEWER_STEPS = (
    f"ppo.updates={UPDATES}",
    "ppo.prompts_per_update=4",
    "ppo.minibatch_rows=4",
    "ppo.max_response_tokens=32",
    "sft.epochs=1",
    "reward_model.epochs=1",
    "judge.epochs=1",
)


def test_model_server_in_the_workers_pod_samples_for_ppo(runs: LoopRuns) -> None:
    deployed, run = runs.deployed, "turn-1"
    if not (claim_folder(deployed, f"{deployed.name}-models") / BASE).exists():
        install_copy(deployed, BASE)
    promote(deployed, BASE)
    assigned = [word for text in FEWER_STEPS for word in ("--set", text)]
    rollouts = {"engine": "predictor", "dtype": "float32"}
    # Without users: a canary of this candidate ends by its time.
    canary = {"training": {"canary": {"seconds": 60, "users": 1, "steps": ""}}}
    deployed.install(server_rollouts.values(deployed, BASE, rollouts, assigned), canary)
    fill_bucket(deployed, keys(deployed))
    runs.start_run(run)
    assert runs.wait_ended(run, RUN_SECONDS) == "Complete", runs.log(run)
    status = runs.status()
    steps = {step["name"]: step for step in status["steps"]}
    print(json.dumps(status, indent=1))
    assert steps["ppo"]["state"] == "done"
    measured = mismatches(run_folder(deployed, status["run"]))
    print(measured)
    assert len(measured) == UPDATES
    # Above 0: another program has computed the log-probs.
    assert all(0 < mismatch <= MISMATCH_NATS for mismatch in measured)
