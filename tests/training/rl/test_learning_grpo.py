"""GRPO and its variants learn to add; rewards without information have no effect.

There are three seeds each: the first runs in `make test`, the others in `make test-long`.
"""

from pathlib import Path
from statistics import fmean

import pytest
import torch

from tests.training.rl.addition import UPDATES, addition_config, learn, right
from training.losses.policy import Normalisation
from training.rl.rollout import Rollout
from training.runtime.context import Progress

SEEDS = [0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)]
VARIANTS = {
    "grpo": {},
    "dr_grpo": {
        "standardise": False,
        "normalisation": Normalisation.CONSTANT,
        "constant_tokens": 3,
    },
    "dapo": {"filter_zero_variance": True},
    "k3": {"kl_coefficient": 0.02, "kl_ceiling_nats": 20.0},
}


def first_and_last(steps: list[Progress], name: str = "score") -> tuple[float, float]:
    return fmean(step.metrics[name] for step in steps[:3]), fmean(
        step.metrics[name] for step in steps[-5:]
    )


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "variant",
    [
        "grpo",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in sorted(VARIANTS)
            if name != "grpo"
        ),
    ],
)
def test_policy_learns_to_add(variant: str, seed: int, tmp_path: Path) -> None:
    steps = learn(addition_config(seed, **VARIANTS[variant]), right, tmp_path)
    before, after = first_and_last(steps)
    assert len(steps) == UPDATES
    assert 0.15 < before < 0.45
    assert after >= before + 0.3
    assert steps[-1].metrics["eos_rate"] > 0.9
    assert max(step.metrics["sampler_mismatch"] for step in steps) < 1e-5
    if variant == "k3":
        assert 0.0 < first_and_last(steps, "kl")[1] < 8.0


@pytest.mark.parametrize("seed", SEEDS)
def test_control_reward_shuffled_in_the_batch_has_no_effect(seed: int, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(seed)
    truth: list[float] = []

    def shuffled(rollout: Rollout) -> torch.Tensor:
        scores = right(rollout)
        truth.append(float(scores.mean()))
        return scores[torch.randperm(len(scores), generator=generator)]

    learn(addition_config(seed, minibatch_rows=200), shuffled, tmp_path)
    assert fmean(truth[-5:]) - fmean(truth[:3]) <= 0.15


@pytest.mark.parametrize("seed", SEEDS)
def test_control_random_reward_does_not_raise_the_score(seed: int, tmp_path: Path) -> None:
    """Allow a falling score, because standardised groups amplify noise."""
    generator = torch.Generator().manual_seed(seed)
    truth: list[float] = []

    def random(rollout: Rollout) -> torch.Tensor:
        truth.append(float(right(rollout).mean()))
        return torch.rand(len(rollout.tasks), generator=generator).round()

    learn(addition_config(seed, updates=UPDATES // 2), random, tmp_path)
    assert fmean(truth[-5:]) - fmean(truth[:3]) <= 0.05
