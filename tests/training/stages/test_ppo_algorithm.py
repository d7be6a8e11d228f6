"""The algorithm of PPO without files, for a policy that differs from its reference."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.rl.toy import no_autocast, sentiment, toy_config, toy_networks, toy_prompts
from tests.training.toys import ProgressList
from training.rl.advantages import KlConfig
from training.rl.config import RewardShape
from training.rl.rollout import CachedEngine, Rollout, SampleRequest
from training.runtime.context import RunContext
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints
from training.stages.policy_inputs import PolicyInputs
from training.stages.policy_loop import local_engine
from training.stages.ppo import Ppo, PpoConfig, PpoNetworks


def drifted(**changes: object) -> tuple[Ppo, PpoNetworks, Rollout]:
    networks = toy_networks()
    with torch.no_grad():
        for parameter in networks.policy.decoder.parameters():
            parameter.mul_(2.0)
        networks.critic.head.score.weight.fill_(0.1)
    config = toy_config(
        **{"prompts_per_update": 6, "minibatch_rows": 12, "epochs_per_update": 1, **changes}
    )
    prompts = toy_prompts(6)
    algorithm = Ppo(networks, config, PolicyInputs(prompts, sentiment, no_autocast, ALONE))
    engine = CachedEngine(networks.policy, prompts.stop_ids, "update-0")
    rollout = engine.sample(
        SampleRequest.of(
            prompts.ids, 2, config.max_response_tokens, config.temperature, list(range(6))
        )
    )
    return algorithm, networks, rollout


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_old_log_probs_are_the_policys_own_at_its_temperature(temperature: float) -> None:
    algorithm, _, rollout = drifted(temperature=temperature)
    experience, figures = algorithm.make_experience(rollout, 0.1)
    assert figures["kl"] > 0.1
    assert (experience.old_log_probs_BR - rollout.log_probs_BR).abs().max() < 1e-5
    learned = algorithm.learn(
        replace(experience, fresh_BR=None), 0
    )  # run again, as in updates of several steps
    assert learned["clip_fraction"] == 0
    assert learned["approximate_kl"] < 1e-10


def test_a_one_step_update_runs_the_policy_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of several steps, the same update runs the policy again and learns the same."""
    learned = []
    for is_one_step, reads in ((True, 1), (False, 2)):
        monkeypatch.setattr(PpoConfig, "is_one_step", is_one_step)
        algorithm, networks, rollout = drifted()
        forwards: list[torch.nn.Module] = []
        networks.policy.decoder.register_forward_hook(
            lambda decoder, *_, seen=forwards: seen.append(decoder)
        )
        figures = algorithm.learn(algorithm.make_experience(rollout, 0.1)[0], 0)
        assert len(forwards) == 2 * reads  # the prompts, then the responses
        learned.append((figures, list(networks.policy.decoder.parameters())))
    (mine, after), (plain, likewise) = learned
    assert mine == pytest.approx(plain, rel=1e-4, abs=1e-6)
    assert all(
        torch.allclose(one, other, atol=1e-5) for one, other in zip(after, likewise, strict=True)
    )


def test_divergence_costs_beta_times_the_kl() -> None:
    algorithm, _, rollout = drifted(reward=RewardShape(missing_eos_penalty=0.0))
    free, dear = (algorithm.make_experience(rollout, beta)[1] for beta in (0.0, 2.0))
    assert free["reward"] == pytest.approx(free["score"], abs=1e-5)
    assert dear["reward"] == pytest.approx(free["reward"] - 2.0 * free["kl"], abs=1e-4)


def test_values_belong_to_the_state_before_their_token() -> None:
    algorithm, _, rollout = drifted()
    changed = replace(rollout, response_ids_BR=rollout.response_ids_BR.clone())
    changed.response_ids_BR[:, 2] = (changed.response_ids_BR[:, 2] + 1) % 24
    (before, _), (after, _) = (
        algorithm.make_experience(rollout, 0.1),
        algorithm.make_experience(changed, 0.1),
    )
    long = rollout.response_mask_BR[:, 3].bool()
    assert long.any()
    assert torch.equal(before.old_values_BR[:, :3], after.old_values_BR[:, :3])
    assert (before.old_values_BR[long, 3] != after.old_values_BR[long, 3]).all()
    errors = (
        (before.old_values_BR - before.returns_BR).square() * before.mask_BR
    ).sum() / before.mask_BR.sum()
    assert algorithm.learn(before, 0)["value_loss"] == pytest.approx(float(errors) / 2, rel=1e-5)


def test_advantage_rises_with_score_and_falls_without_end_token() -> None:
    algorithm, _, rollout = drifted(
        kl=KlConfig(initial=0.0), reward=RewardShape(missing_eos_penalty=9.0)
    )
    rollout = replace(rollout, ended_B=torch.tensor([True, False] * 6))
    experience, _ = algorithm.make_experience(rollout, 0.0)
    first = experience.advantages_BR[:, 0]
    assert first[::2].min() > first[1::2].max()


def test_beta_follows_its_target_from_update_to_update(tmp_path: Path) -> None:
    kl = KlConfig(initial=0.1, target_nats=0.01, horizon_samples=120)
    algorithm, networks, _ = drifted(kl=kl, updates=2)
    progress = ProgressList()
    algorithm.train(
        RunContext(DirectoryCheckpoints(tmp_path), progress),
        local_engine(networks.policy, toy_prompts(6)),
    )
    assert progress.steps[0].metrics["kl"] > 0.1
    assert [step.metrics["beta"] for step in progress.steps] == pytest.approx(
        [0.1, 0.1 * (1 + 0.2 * 12 / 120)]
    )


def test_an_update_ends_early_beyond_the_kl_limit() -> None:
    steps = []
    for limit in (None, 1e-9):
        algorithm, _, rollout = drifted(epochs_per_update=4, early_stop_nats=limit)
        experience, _ = algorithm.make_experience(rollout, 0.1)
        steps.append(algorithm.learn(experience, 5)["minibatches"])
    assert steps == [4, 2]  # the first minibatch is always on policy


def test_importance_correction_applies_only_to_the_policy_loss() -> None:
    algorithm, _, rollout = drifted(importance_cap=1.5)
    rollout = replace(
        rollout, log_probs_BR=rollout.log_probs_BR + torch.linspace(-1, 1, 12)[:, None]
    )
    experience, figures = algorithm.make_experience(rollout, 0.1)
    mask, tokens = experience.mask_BR, experience.mask_BR.sum()
    assert figures["importance_capped"] > 0
    learned = algorithm.learn(experience, 0)
    expected = -(experience.advantages_BR * experience.correction_BR * mask).sum() / tokens
    errors = ((experience.old_values_BR - experience.returns_BR).square() * mask).sum() / tokens
    assert learned["policy_loss"] == pytest.approx(float(expected), abs=1e-5)
    assert learned["value_loss"] == pytest.approx(float(errors) / 2, rel=1e-5)
