"""Tests of the losses of PPO and GRPO and of the estimates of the KL."""

import math

import pytest
import torch

from training.losses.policy import (
    LOG_RATIO_LIMIT,
    Clip,
    Normalisation,
    k1,
    k3,
    policy_loss,
    token_weights,
    value_loss,
)
from training.rl.advantages import sequence_kl, token_rewards
from training.rl.correction import mismatch
from training.runtime.ranks import ALONE


def test_clipped_surrogate_has_no_gradient_beyond_the_clip() -> None:
    ratios, advantages = (
        torch.tensor([[1.5, 0.5, 1.5, 0.5]]),
        torch.tensor([[1.0, 1.0, -1.0, -1.0]]),
    )
    log_probs = ratios.log().requires_grad_(True)
    result = policy_loss(log_probs, torch.zeros(1, 4), advantages, torch.ones(1, 4) / 4, Clip())
    result.loss.backward()  # type: ignore[no-untyped-call]
    assert log_probs.grad is not None
    assert (log_probs.grad != 0).tolist() == [[False, True, True, False]]
    assert result.clipped_tokens.item() == 2
    assert result.loss.item() == pytest.approx(-(1.2 + 0.5 - 1.5 - 0.8) / 4, abs=1e-6)


def test_positive_advantage_raises_the_log_prob() -> None:
    log_probs = torch.zeros(1, 2, requires_grad=True)
    policy_loss(
        log_probs, torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]), torch.ones(1, 2), Clip()
    ).loss.backward()  # type: ignore[no-untyped-call]
    assert log_probs.grad is not None
    assert (
        log_probs.grad[0, 0] < 0 < log_probs.grad[0, 1]
    )  # descent raises the first, lowers the second


def test_masked_tokens_have_no_influence_on_the_policy_loss() -> None:
    advantages, mask = torch.tensor([[1.0, 99.0]]), torch.tensor([[1, 0]])
    log_probs = torch.zeros(1, 2, requires_grad=True)
    result = policy_loss(log_probs, torch.tensor([[0.0, -5.0]]), advantages, mask, Clip())
    result.loss.backward()  # type: ignore[no-untyped-call]
    assert result.loss.item() == -1.0
    assert log_probs.grad is not None and log_probs.grad[0, 1] == 0
    assert result.clipped_tokens.item() == 0
    assert result.approximate_kl_sum.item() == 0


def test_extreme_ratio_stays_finite() -> None:
    log_probs = torch.tensor([[500.0]], requires_grad=True)
    result = policy_loss(
        log_probs, torch.tensor([[-500.0]]), -torch.ones(1, 1), torch.ones(1, 1), Clip()
    )
    result.loss.backward()  # type: ignore[no-untyped-call]
    assert result.loss.item() == pytest.approx(math.exp(LOG_RATIO_LIMIT))
    assert log_probs.grad is not None and torch.isfinite(log_probs.grad).all()


def test_clip_higher_allows_larger_increases() -> None:
    ratios, advantages = (
        torch.tensor([[1.25, 1.3, 0.75, 0.85]]),
        torch.tensor([[1.0, 1.0, -1.0, -1.0]]),
    )
    result = policy_loss(
        ratios.log(), torch.zeros(1, 4), advantages, torch.ones(1, 4), Clip(0.2, 0.28)
    )
    assert result.loss.item() == pytest.approx(-(1.25 + 1.28 - 0.8 - 0.85), abs=1e-5)
    assert result.clipped_tokens.item() == 2


WEIGHTED = torch.tensor(
    [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
)  # four tokens, two tokens, and a masked row


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [
        (Normalisation.TOKEN, [4 / 6, 2 / 6, 0]),  # weight proportional to length
        (Normalisation.SEQUENCE, [1 / 2, 1 / 2, 0]),  # equal weight per response
        # weight by length, independent of other responses
        (Normalisation.CONSTANT, [4 / 20, 2 / 20, 0]),
    ],
)
def test_normalisations_weight_responses_as_documented(
    normalisation: Normalisation, expected: list[float]
) -> None:
    weights = token_weights(WEIGHTED, ALONE, normalisation, constant_tokens=10)
    assert weights.sum(1).tolist() == pytest.approx(expected)
    assert (weights > 0).tolist() == WEIGHTED.bool().tolist()


def test_empty_batch_has_zero_weights_without_division_by_zero() -> None:
    for normalisation in Normalisation:
        assert token_weights(torch.zeros(2, 3), ALONE, normalisation, 10).tolist() == [[0] * 3] * 2


def test_value_loss_is_the_worse_of_clipped_and_unclipped() -> None:
    old, returns, halves = torch.zeros(1, 2), torch.tensor([[1.0, 0.1]]), torch.full((1, 2), 0.5)
    values = torch.tensor(
        [[1.0, 0.1]], requires_grad=True
    )  # both are exact, but 1.0 moved further than 0.2
    loss = value_loss(values, old, returns, halves, 0.2)
    assert loss.item() == pytest.approx(0.5 * (1.0 - 0.2) ** 2 / 2, abs=1e-6)
    far = value_loss(torch.tensor([[3.0, 0.1]]), old, returns, halves, 0.2)
    assert far.item() == pytest.approx(0.5 * (3.0 - 1.0) ** 2 / 2, abs=1e-6)


def kl(drawn_from: torch.Tensor, other: torch.Tensor) -> float:
    return float((drawn_from.exp() * (drawn_from - other)).sum())


@pytest.mark.parametrize("scale", [0.05, 0.5])
def test_kl_estimates_are_exact_in_expectation(scale: float) -> None:
    """Use all tokens of a vocabulary, weighted by their sampling probability, without noise."""
    generator = torch.Generator().manual_seed(0)
    sampled, other = (
        scale * torch.randn(2, 6, generator=generator, dtype=torch.float64)
    ).log_softmax(1)
    ones_V1 = torch.ones(6, 1, dtype=torch.float64)
    sampled_V1, other_V1 = sampled[:, None], other[:, None]
    of_update = [
        policy_loss(other_V1[v], sampled_V1[v], ones_V1[v], ones_V1[v], Clip()) for v in range(6)
    ]
    estimates = {
        "k1": k1(sampled, other),
        "k3": k3(sampled, other),
        "of a response, to the reference": sequence_kl(sampled_V1, other_V1, ones_V1),
        "PPO's reward": -token_rewards(0 * sampled, sampled_V1, other_V1, ones_V1, 1.0).squeeze(1),
        "of old to new policy": torch.stack([one.approximate_kl_sum for one in of_update]),
        "of sampler to trainer": mismatch(other_V1, sampled_V1, ones_V1)["sampler_kl"],
    }
    means = {name: float((sampled.exp() * values_V).sum()) for name, values_V in estimates.items()}
    assert means == pytest.approx(dict.fromkeys(means, kl(sampled, other)), rel=1e-6)
    assert means["k3"] != pytest.approx(
        kl(other, sampled), rel=1e-3
    )  # the reverse KL has another value
    assert estimates["k3"].min() >= 0 > estimates["k1"].min()
    assert spread(estimates["k3"], sampled) < spread(estimates["k1"], sampled)


def spread(values_V: torch.Tensor, log_probs_V: torch.Tensor) -> float:
    mean = (log_probs_V.exp() * values_V).sum()
    return float((log_probs_V.exp() * (values_V - mean).square()).sum())
