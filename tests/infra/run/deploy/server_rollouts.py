"""Runs of the recipe auto as RayJobs whose rollouts a model server samples in the worker's pod."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.run.deploy.release import overlaid
from infra.run.deploy.training import RayMode, chart_values
from tests.infra.run.deploy.deployed import Deployed, Values
from tests.infra.run.deploy.models import claim_folder
from training.reporting.run import STAGES

# Of a sampled token between trainer and server, both in float32; the trainer's limit.
MISMATCH_NATS = 1e-3
# A trainer of a small model, and a server: vLLM takes 4 GB besides keys and values.
MEMORY = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "9Gi"}}


def values(
    deployed: Deployed, base: str, rollouts: Values, arguments: Sequence[str]
) -> dict[str, Any]:
    """Return values of the chart for manual runs with one worker.

    Args:
        base: version that is trained.
        rollouts: `training.rollouts`.
        arguments: of `python -m training loop`.
    """
    return overlaid(
        chart_values(RayMode.KUBERAY),
        {
            **deployed.images("training"),
            "models": {"initial": base},
            "training": {
                "recipe": "auto",
                "retries": 0,
                "hardware": {"cores": 1, "memoryGib": 8},
                "extraArgs": [*arguments],
                "rollouts": rollouts,
            },
            "ray": {"workers": {"resources": MEMORY}},
        },
    )


def run_folder(deployed: Deployed, run: str) -> Path:
    """Return the folder of a run in the claim of the loop on this machine."""
    return claim_folder(deployed, f"{deployed.name}-loop") / "runs" / run


def mismatches(folder: Path) -> list[float]:
    """Return the difference between the log-probs of server and trainer in each update of PPO."""
    lines = (folder / STAGES / "ppo" / "progress.jsonl").read_text().splitlines()
    return [json.loads(line)["metrics"]["sampler_mismatch"] for line in lines]
