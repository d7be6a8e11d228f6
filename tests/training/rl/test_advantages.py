"""Advantages relative to the group, never to other prompts."""

import pytest
import torch

from training.rl.advantages import (
    KlConfig,
    explained_variance,
    gae,
    group_advantages,
    next_beta,
    overlong_penalty,
    response_scores,
    sequence_kl,
    token_rewards,
    undecided_groups,
    whiten,
)
from training.runtime.ranks import ALONE

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])


def test_score_is_on_the_last_real_token() -> None:
    zero = torch.zeros(3, 4)
    rewards = token_rewards(torch.tensor([5.0, 6.0, 7.0]), zero, zero, MASK, 0.1)
    assert rewards.tolist() == [[0, 0, 5, 0], [0, 0, 0, 6], [7, 0, 0, 0]]


def test_drifting_from_the_reference_costs_beta_per_nat() -> None:
    log_probs, reference = (
        torch.full((3, 4), -1.0),
        torch.full((3, 4), -3.0),
    )  # the policy has a higher log-prob
    rewards = token_rewards(torch.zeros(3), log_probs, reference, MASK, 0.1)
    assert torch.allclose(rewards, -0.2 * MASK)
    assert sequence_kl(log_probs, reference, MASK).tolist() == [6.0, 8.0, 2.0]


def test_unfinished_response_has_a_penalty_and_scores_are_clipped() -> None:
    scores = response_scores(
        torch.tensor([0.5, 0.5, 99.0]), torch.tensor([True, False, True]), 2.0, clip=5.0
    )
    assert scores.tolist() == [0.5, -1.5, 5.0]


def test_length_penalty_starts_near_the_limit() -> None:
    mask = (torch.arange(10) < torch.tensor([[5], [6], [8], [10]])).long()
    assert overlong_penalty(mask, 10, 4).tolist() == [0, 0, 0.5, 1]
    assert overlong_penalty(mask, 10, 0).tolist() == [0, 0, 0, 0]


def brute_force_gae(
    rewards: list[float], values: list[float], discount: float, lam: float
) -> list[float]:
    steps = len(rewards)
    after = [*values[1:], 0.0]
    deltas = [rewards[t] + discount * after[t] - values[t] for t in range(steps)]
    return [
        sum((discount * lam) ** (k - t) * deltas[k] for k in range(t, steps)) for t in range(steps)
    ]


@pytest.mark.parametrize(("discount", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0)])
def test_gae_equals_brute_force_and_ignores_masked_values(discount: float, lam: float) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(3, 4, generator=generator), torch.randn(3, 4, generator=generator)
    dirty = 100.0 * (1 - MASK)
    advantages, returns = gae(rewards + dirty, values + dirty, MASK, discount, lam)
    for row, length in enumerate((3, 4, 1)):
        expected = brute_force_gae(
            rewards[row, :length].tolist(), values[row, :length].tolist(), discount, lam
        )
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-5)
        assert (returns - advantages)[row, :length].tolist() == pytest.approx(
            values[row, :length].tolist(), abs=1e-5
        )
        assert advantages[row, length:].abs().sum() == 0


def test_with_lambda_one_returns_are_monte_carlo() -> None:
    rewards = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    _, returns = gae(
        rewards, torch.randn(1, 4, generator=torch.Generator().manual_seed(0)), MASK[:1], 1.0, 1.0
    )
    assert returns[0, :3].tolist() == pytest.approx([6.0, 5.0, 3.0], abs=1e-5)


def test_whitening_uses_real_tokens_only() -> None:
    values = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    white = whiten(values + 50.0 * (1 - MASK), MASK, ALONE)
    real = white[MASK.bool()]
    assert real.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert real.var(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    assert white[~MASK.bool()].abs().sum() == 0
    assert torch.equal(real.argsort(), values[MASK.bool()].argsort())


def test_explained_variance_is_one_for_a_perfect_critic_and_zero_for_a_constant_one() -> None:
    returns = torch.tensor([[1.0, 2.0, 3.0, 77.0]])
    assert explained_variance(returns, returns, MASK[:1], ALONE) == 1.0
    assert explained_variance(torch.ones(1, 4), returns, MASK[:1], ALONE) == pytest.approx(
        0.0, abs=1e-6
    )


def test_beta_changes_by_at_most_a_fifth_of_samples_over_horizon() -> None:
    config = KlConfig(initial=0.1, target_nats=4.0, horizon_samples=1000)
    assert next_beta(0.1, 4.0, 100, config) == pytest.approx(0.1)
    assert next_beta(0.1, 4.4, 100, config) == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    assert next_beta(0.1, 400.0, 100, config) == pytest.approx(0.1 * 1.02)
    assert next_beta(0.1, 0.0, 100, config) == pytest.approx(0.1 * 0.98)
    assert next_beta(0.1, 400.0, 100, KlConfig(initial=0.1)) == 0.1


SCORES = torch.tensor(
    [1.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0, 3.0, 4.0, 5.0, 6.0]
)  # three prompts, four responses each


def test_advantage_is_the_distance_from_the_group_mean() -> None:
    expected = [0.75, -0.25, -0.25, -0.25, 0, 0, 0, 0, -1.5, -0.5, 0.5, 1.5]
    assert group_advantages(SCORES, 4, standardise=False).tolist() == pytest.approx(expected)


def test_standardised_groups_have_equal_spread() -> None:
    advantages = group_advantages(SCORES, 4, standardise=True).view(3, 4)
    assert advantages[0].tolist() == pytest.approx(
        [1.5, -0.5, -0.5, -0.5], abs=1e-3
    )  # unbiased deviation 0.5
    assert advantages[2].std().item() == pytest.approx(1.0, abs=1e-3)
    assert advantages.sum(dim=1).tolist() == pytest.approx([0, 0, 0], abs=1e-5)


def test_group_with_equal_scores_has_no_signal() -> None:
    assert group_advantages(SCORES, 4, standardise=True)[4:8].tolist() == [0, 0, 0, 0]
    assert undecided_groups(SCORES, 4).tolist() == [True] * 4 + [False] * 4 + [True] * 4
