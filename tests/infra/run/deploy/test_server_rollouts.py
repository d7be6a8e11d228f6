"""Run of the recipe auto as a RayJob, with rollouts by a model server in the worker's pod."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from infra.run.deploy.release import overlaid
from infra.run.deploy.training import RayMode, chart_values
from tests.infra.run.deploy.clusters import deployed_cluster
from tests.infra.run.deploy.loop_runs import LoopRuns
from tests.infra.run.deploy.models import claim_folder, install_copy, promote
from tests.infra.run.deploy.raters import fill_bucket, keys
from training.reporting.run import STAGES

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.ray,
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]
# Nano under a name without a recipe of its own.
BASE = "tiny-0"
RUN_SECONDS = 2400.0
UPDATES = 2
# Of a sampled token between trainer and server, both in float32; the trainer's limit.
MISMATCH_NATS = 1e-3
FEWER_STEPS = (
    f"ppo.updates={UPDATES}",
    "ppo.prompts_per_update=4",
    "ppo.minibatch_rows=4",
    "ppo.max_response_tokens=32",
    "sft.epochs=1",
    "reward_model.epochs=1",
    "judge.epochs=1",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopRuns]:
    """Separate cluster with the KubeRay operator."""
    state = tmp_path_factory.mktemp("rollouts") / "cluster"
    words = ("--training", "kuberay")
    with deployed_cluster(
        state, "model servers sample for no RayJob", *words, seconds=1800
    ) as deployed:
        yield LoopRuns(deployed)


def values(runs: LoopRuns) -> dict[str, Any]:
    repository, tag = runs.deployed.image("training").rsplit(":", 1)
    found: Any = chart_values(RayMode.KUBERAY)
    memory = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "9Gi"}}
    changes = {
        "images": {"training": {"repository": repository, "tag": tag}},
        "models": {"initial": BASE},
        "training": {
            "recipe": "auto",
            "retries": 0,
            # Without users: a canary of this candidate ends by its time.
            "canary": {"seconds": 60, "users": 1, "steps": ""},
            "hardware": {"cores": 1, "memoryGib": 8},
            "extraArgs": [word for text in FEWER_STEPS for word in ("--set", text)],
            "rollouts": {"engine": "predictor", "dtype": "float32"},
        },
        "ray": {"workers": {"resources": memory}},
    }
    return overlaid(found, changes)


def test_model_server_in_the_workers_pod_samples_for_ppo(runs: LoopRuns) -> None:
    deployed, run = runs.deployed, "turn-1"
    if not (claim_folder(deployed, f"{deployed.name}-models") / BASE).exists():
        install_copy(deployed, BASE)
    promote(deployed, BASE)
    deployed.install(values(runs))
    fill_bucket(deployed, keys(deployed))
    runs.start_run(run)
    assert runs.wait_ended(run, RUN_SECONDS) == "Complete", runs.log(run)
    status = runs.status()
    steps = {step["name"]: step for step in status["steps"]}
    print(json.dumps(status, indent=1))
    assert steps["ppo"]["state"] == "done"
    folder = claim_folder(deployed, f"{deployed.name}-loop") / "runs"
    folder = folder / status["run"] / STAGES / "ppo"
    lines = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    print(json.dumps(lines[-1]))
    mismatches = [line["metrics"]["sampler_mismatch"] for line in lines]
    assert len(mismatches) == UPDATES
    # Above 0: another program has computed the log-probs.
    assert all(0 < mismatch <= MISMATCH_NATS for mismatch in mismatches)
