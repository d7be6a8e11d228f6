"""The algorithm of GRPO without files: group comparison, masks and losses."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.errors import refused
from tests.training.rl.addition import STOP, addition_config, beginner, learn, prompt_of, right
from tests.training.rl.toy import no_autocast
from tests.training.toys import ProgressList
from training.losses.policy import Normalisation
from training.model.backbone import Backbone
from training.rl.correction import StaleRolloutError
from training.rl.networks import Networks
from training.rl.rollout import CachedEngine, Rollout, SampleRequest
from training.runtime.context import Progress, RunContext
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints
from training.stages.grpo import Grpo, GrpoConfig
from training.stages.policy_inputs import PolicyInputs, Prompts


def made(config: GrpoConfig, reference_seed: int | None = None) -> tuple[Grpo, Rollout]:
    """Return an algorithm over the addition policy, and a rollout of two prompts with four
    responses.
    """
    policy = Backbone(beginner(0))
    reference = (
        None if reference_seed is None else Backbone(beginner(reference_seed).requires_grad_(False))
    )
    prompts = Prompts([prompt_of(1, 2), prompt_of(7, 8)], ["1+2", "7+8"], (STOP,), 0)
    algorithm = Grpo(
        Networks(policy, reference),
        config,
        PolicyInputs(prompts, lambda r: right(r), no_autocast, ALONE),
    )
    engine = CachedEngine(policy, (STOP,), "update-0")
    rollout = engine.sample(SampleRequest.of(prompts.ids, 4, 3, config.temperature, [1, 2]))
    return algorithm, replace(rollout, tasks=("1+2",) * 4 + ("7+8",) * 4)


def scored(config: GrpoConfig, scores: list[float]) -> tuple[Grpo, Rollout]:
    algorithm, rollout = made(config)
    scoring = algorithm._scoring
    algorithm._scoring = replace(
        scoring, score=lambda part: torch.tensor(scores)[: len(part.ended_B)], rows=8
    )
    return algorithm, rollout


SMALL = {
    "prompts_per_update": 2,
    "samples_per_prompt": 4,
    "minibatch_rows": 8,
    "max_response_tokens": 3,
}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_first_minibatch_is_on_policy_with_log_probs_of_its_own(temperature: float) -> None:
    config = addition_config(
        0,
        **SMALL,
        epochs_per_update=1,
        kl_coefficient=0.02,
        kl_ceiling_nats=20.0,
        temperature=temperature,
    )
    algorithm, rollout = made(config, reference_seed=1)
    experience, figures = algorithm.make_experience(rollout)
    assert figures["sampler_mismatch"] < 1e-5
    assert (experience.old_log_probs_BR - experience.reference_BR).abs().max() > 0.01
    learned = algorithm.learn(experience, 0)
    assert (learned["clip_fraction"], learned["minibatches"]) == (0, 1)
    assert learned["approximate_kl"] < 1e-10


@pytest.mark.parametrize(
    ("ratio", "advantage", "clipped"), [(1.25, 1.0, 0.0), (1.3, 1.0, 1.0), (0.75, -1.0, 1.0)]
)
def test_a_ratio_has_more_room_upwards_than_downwards(
    ratio: float, advantage: float, clipped: float
) -> None:
    algorithm, rollout = made(
        addition_config(0, **SMALL, epochs_per_update=1, clip_low=0.2, clip_high=0.28)
    )
    experience, _ = algorithm.make_experience(rollout)
    mask = experience.mask_BR
    shifted = (experience.old_log_probs_BR - math.log(ratio)) * mask
    moved = replace(experience, old_log_probs_BR=shifted, advantages_BR=advantage * mask)
    assert algorithm.learn(moved, 0)["clip_fraction"] == clipped


def test_groups_are_compared_with_themselves_and_counted() -> None:
    algorithm, rollout = scored(
        addition_config(0, **SMALL), [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    )
    experience, figures = algorithm.make_experience(rollout)
    assert figures["zero_variance_groups"] == 0.5
    assert (experience.advantages_BR[0] > 0).any() and (experience.advantages_BR[1:4] <= 0).all()
    assert (experience.advantages_BR[4:] == 0).all()
    assert figures["masked_responses"] == 0


def test_the_filter_keeps_only_groups_with_variance_in_the_loss() -> None:
    config = addition_config(0, **SMALL, filter_zero_variance=True, epochs_per_update=1)
    algorithm, rollout = scored(config, [1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    experience, figures = algorithm.make_experience(rollout)
    assert figures["masked_responses"] == 0.5
    assert torch.equal(experience.mask_BR[:4], rollout.response_mask_BR[:4])
    assert experience.mask_BR[4:].sum() == 0


def weights_after(algorithm: Grpo, rollout: Rollout) -> tuple[list[torch.Tensor], dict[str, float]]:
    experience, _ = algorithm.make_experience(rollout)
    figures = algorithm.learn(experience, 30)
    return [parameter.detach().clone() for parameter in algorithm._policy.parameters], figures


def test_groups_without_variance_change_nothing() -> None:
    start = [parameter.detach() for parameter in beginner(0).parameters()]
    for filtered, steps in ((False, 2), (True, 0)):
        algorithm, rollout = scored(
            addition_config(0, **SMALL, filter_zero_variance=filtered), [1.0] * 8
        )
        weights, figures = weights_after(algorithm, rollout)
        assert all(torch.equal(one, other) for one, other in zip(start, weights, strict=True))
        assert figures["minibatches"] == steps


def test_a_truncated_response_is_penalised_or_masked() -> None:
    algorithm, rollout = scored(addition_config(0, **SMALL, missing_eos_penalty=2.0), [0.0] * 8)
    rollout = replace(rollout, ended_B=torch.tensor([True, True, True, False] * 2))
    experience, figures = algorithm.make_experience(rollout)
    assert figures["reward"] == pytest.approx(-0.5)
    assert experience.advantages_BR[3, 0] < 0 < experience.advantages_BR[0, 0]
    algorithm, _ = scored(
        addition_config(0, **SMALL, mask_missing_eos=True), [0.0, 0.0, 0.0, 1.0] * 2
    )
    experience, figures = algorithm.make_experience(rollout)
    assert experience.mask_BR.any(dim=1).tolist() == [True, True, True, False] * 2
    assert experience.advantages_BR[0, 0] < 0  # still counts in its group


def test_length_near_the_limit_lowers_the_score() -> None:
    algorithm, rollout = scored(addition_config(0, **SMALL, soft_overlong_tokens=2), [0.0] * 8)
    lengths = rollout.response_mask_BR.sum(1)
    assert len(set(lengths.tolist())) > 1
    _, figures = algorithm.make_experience(rollout)
    assert figures["reward"] == pytest.approx(-float(((lengths - 1).clamp(0, 2) / 2).mean()))


def test_reference_loss_and_constant_normalisation_by_hand() -> None:
    """Compare the loss of the first minibatch with a calculation by hand."""
    config = addition_config(
        0,
        **SMALL,
        epochs_per_update=1,
        kl_coefficient=0.5,
        kl_ceiling_nats=20.0,
        standardise=False,
        normalisation=Normalisation.CONSTANT,
        constant_tokens=3,
    )
    algorithm, rollout = made(config, reference_seed=1)
    experience, _ = algorithm.make_experience(rollout)
    mask, old, reference = experience.mask_BR, experience.old_log_probs_BR, experience.reference_BR
    learned = algorithm.learn(experience, 0)
    assert learned["policy_loss"] == pytest.approx(
        -float((experience.advantages_BR * mask).sum() / 24), abs=1e-6
    )
    gap = reference - old
    assert learned["reference_loss"] == pytest.approx(
        0.5 * float(((gap.exp() - 1 - gap) * mask).sum() / 24), rel=1e-4
    )


def test_the_reference_term_moves_the_policy_towards_the_reference() -> None:
    config = addition_config(
        0,
        **SMALL,
        updates=40,
        kl_coefficient=1.0,
        kl_ceiling_nats=90.0,
        epochs_per_update=1,
        missing_eos_penalty=0.0,
    )
    algorithm, rollout = made(config, reference_seed=1)
    algorithm._scoring = replace(
        algorithm._scoring, score=lambda part: torch.zeros(len(part.ended_B))
    )
    losses = []
    for update in range(20):  # eight warm-up steps
        experience, _ = algorithm.make_experience(rollout)
        losses.append(algorithm.learn(experience, update)["reference_loss"])
    assert losses[-1] < 0.7 * losses[0]


def test_an_update_ends_early_beyond_the_kl_limit() -> None:
    steps = []
    for limit in (None, 1e-6):
        config = addition_config(0, **SMALL, epochs_per_update=4, early_stop_nats=limit)
        algorithm, rollout = scored(config, [1.0, 0.0] * 4)
        steps.append(weights_after(algorithm, rollout)[1]["minibatches"])
    assert steps == [4, 2]  # the first minibatch is always on policy


def learn_from_older(tmp_path: Path, older: int, allowed: int) -> list[Progress]:
    """Run two updates from rollouts of weights that are `older` updates behind."""
    config = addition_config(0, updates=2, max_staleness_updates=allowed, importance_cap=2.0)
    policy, stale = Backbone(beginner(0)), Backbone(beginner(1))
    prompts = Prompts([prompt_of(1, 2)], ["1+2"], (STOP,), 0)
    progress = ProgressList()
    algorithm = Grpo(
        Networks(policy, None), config, PolicyInputs(prompts, right, no_autocast, ALONE)
    )

    def engines(update: int) -> CachedEngine:
        return CachedEngine(
            stale if older and update else policy, (STOP,), f"update-{max(0, update - older)}"
        )

    algorithm.train(RunContext(DirectoryCheckpoints(tmp_path), progress), engines)
    return progress.steps


@pytest.mark.parametrize(("older", "allowed"), [(0, 0), (1, 1)])
def test_older_weights_are_corrected_within_the_limit(
    tmp_path: Path, older: int, allowed: int
) -> None:
    last = learn_from_older(tmp_path, older, allowed)[-1].metrics
    assert (last["importance_capped"] > 0) == (last["sampler_mismatch"] > 0.1) == (older == 1)


def test_older_weights_are_refused_beyond_the_limit(tmp_path: Path) -> None:
    with refused(
        StaleRolloutError, field="max_staleness_updates", reason="STALE_ROLLOUT", limit="at most 0"
    ):
        learn_from_older(tmp_path, older=1, allowed=0)


def test_tokens_favoured_by_the_sampler_have_less_weight() -> None:
    """The correction is part of the gradient: without the correction the loss differs."""
    config = addition_config(0, **SMALL, epochs_per_update=1, importance_cap=1.5)
    algorithm, rollout = scored(config, [1.0, 0.0, 0.0, 0.0] * 2)
    rollout = replace(
        rollout, log_probs_BR=rollout.log_probs_BR + torch.linspace(-1, 1, 8)[:, None]
    )
    experience, figures = algorithm.make_experience(rollout)
    weights = experience.correction_BR * experience.mask_BR
    assert figures["importance_capped"] > 0
    learned = algorithm.learn(experience, 0)
    expected = -(experience.advantages_BR * weights).sum() / experience.mask_BR.sum()
    assert learned["policy_loss"] == pytest.approx(float(expected), abs=1e-6)


def test_learning_is_a_function_of_the_seed(tmp_path: Path) -> None:
    runs = [
        learn(addition_config(seed, updates=2), right, tmp_path / str(i))
        for i, seed in enumerate((0, 0))
    ]
    assert [step.metrics for step in runs[0]] == [step.metrics for step in runs[1]]
