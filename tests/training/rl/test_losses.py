"""Losses compared with values computed by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.optim.ranks import ALONE
from training.rl.correction import mismatch
from training.rl.losses import (
    LOG_RATIO_LIMIT,
    Clip,
    Normalisation,
    bradley_terry,
    centring,
    dpo,
    k1,
    k3,
    kto,
    margin_ranking,
    policy_loss,
    token_entropy,
    token_log_probs,
    token_weights,
    value_loss,
    weighted_cross_entropy,
)
from training.rl.rewards import sequence_kl, token_rewards


def test_log_probs_use_the_sampling_temperature() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0]])
    by_hand = 2 / 0.5 - math.log(sum(math.exp(x / 0.5) for x in (0, 1, 2)))
    assert token_log_probs(logits, torch.tensor([2]), 0.5).item() == pytest.approx(
        by_hand, abs=1e-6
    )
    assert token_log_probs(logits, torch.tensor([2])).item() != pytest.approx(by_hand, abs=0.1)


def test_entropy_of_a_uniform_distribution_is_the_log_of_its_size() -> None:
    assert token_entropy(torch.zeros(2, 8)).tolist() == pytest.approx([math.log(8)] * 2)
    assert (
        token_entropy(torch.tensor([[0.0, 1.0]]), 0.1).item()
        < token_entropy(torch.tensor([[0.0, 1.0]])).item()
    )


def test_cross_entropy_is_normalised_by_the_global_weight() -> None:
    logits, targets = (
        torch.randn(6, 5, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 2, 3, 4, 0]),
    )
    weights = torch.tensor([1.0, 1.0, 2.0, 2.0, 1.0, 1.0])
    log_probs = token_log_probs(logits, targets)
    whole = weighted_cross_entropy(log_probs, weights, 8.0)
    parts = [weighted_cross_entropy(log_probs[i:j], weights[i:j], 8.0) for i, j in ((0, 1), (1, 6))]
    expected = (
        torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights
    ).sum() / 8
    assert whole.item() == pytest.approx(expected.item(), abs=1e-6)
    assert sum(p.item() for p in parts) == pytest.approx(whole.item(), abs=1e-6)


def test_bradley_terry_of_equal_scores_is_log_two() -> None:
    same, none = torch.tensor([3.0, -1.0]), torch.zeros(2)
    assert bradley_terry(same, same, none, none.bool(), 2).item() == pytest.approx(
        math.log(2), abs=1e-6
    )


def test_bradley_terry_requires_the_margin() -> None:
    chosen, rejected = (
        torch.tensor([1.0], requires_grad=True),
        torch.tensor([0.0], requires_grad=True),
    )
    loss = bradley_terry(chosen, rejected, torch.tensor([2.0]), torch.tensor([False]), 1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(math.log(1 + math.exp(1.0)), abs=1e-6)
    assert chosen.grad is not None and chosen.grad.item() < 0
    assert rejected.grad is not None and rejected.grad.item() > 0


def test_margin_ranking_is_zero_beyond_the_margin_which_defaults_to_one() -> None:
    chosen, rejected = torch.tensor([5.0, 1.0, 0.5]), torch.tensor([0.0, 0.0, 0.0])
    losses = [
        margin_ranking(
            chosen[i : i + 1], rejected[i : i + 1], torch.tensor([m]), torch.tensor([False]), 1
        ).item()
        for i, m in ((0, 2.0), (1, 2.0), (2, 0.0))
    ]
    assert losses == [0.0, 1.0, 0.5]


def test_bradley_terry_tie_is_cross_entropy_with_label_one_half() -> None:
    gap = torch.tensor([-7.0, -0.5, 0.0, 2.0], requires_grad=True)
    none, tied = torch.zeros(4), torch.tensor([True] * 4)
    loss = bradley_terry(gap + 3, torch.full((4,), 3.0), none, tied, 4)
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(gap, torch.full((4,), 0.5))
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, gap)
    assert torch.allclose(gradient, (torch.sigmoid(gap) - 0.5) / 4, atol=1e-6)  # 0 for equal scores


def test_margin_ranking_tie_pulls_scores_beyond_the_margin() -> None:
    gap = torch.tensor([-3.0, -0.9, 0.0, 0.9, 3.0], requires_grad=True)
    none, tied = torch.zeros(5), torch.tensor([True] * 5)
    loss = margin_ranking(gap, torch.zeros(5), none, tied, 1)
    (gradient,) = torch.autograd.grad(loss, gap)
    assert gradient.tolist() == [-0.5, 0.0, 0.0, 0.0, 0.5]


@pytest.mark.parametrize("pair_loss", [bradley_terry, margin_ranking])
def test_tie_is_the_mean_of_both_orders(pair_loss: Callable[..., Tensor]) -> None:
    """Check the uniform label of Christiano et al.

    2017, section 2.2. The order of the responses has no influence.
    """
    one, other = torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    none, tied = torch.zeros(6), torch.ones(6, dtype=torch.bool)
    first, second = (pair_loss(*pair, none, ~tied, 6) for pair in ((one, other), (other, one)))
    for pair in ((one, other), (other, one)):
        assert torch.allclose(pair_loss(*pair, none, tied, 6), (first + second) / 2, atol=1e-6)
    half = torch.tensor([True, False] * 3)
    mixed = pair_loss(one[half], other[half], none[half], tied[half], 6)
    mixed = mixed + pair_loss(one[~half], other[~half], none[~half], ~tied[~half], 6)
    assert torch.allclose(pair_loss(one, other, none, half, 6), mixed, atol=1e-6)


def test_centring_pulls_the_sum_of_a_pair_to_zero() -> None:
    assert centring(torch.tensor([2.0]), torch.tensor([-2.0]), 1).item() == 0.0
    assert centring(torch.tensor([2.0]), torch.tensor([1.0]), 1).item() == 9.0


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


def gradient_of(loss: torch.Tensor, *leaves: torch.Tensor) -> list[float]:
    return [gradient.item() for gradient in torch.autograd.grad(loss, leaves)]


def test_dpo_loss_is_log_two_if_policy_equals_reference() -> None:
    none = torch.zeros(3)
    assert dpo(none, none, none, 0.1, 0.0, 3).item() == pytest.approx(math.log(2), abs=1e-6)
    assert dpo(none, none, none, 0.1, 0.3, 3).item() == pytest.approx(math.log(2), abs=1e-6)


def test_dpo_scales_the_gap_by_beta_and_requires_the_margin() -> None:
    chosen, rejected = (
        torch.tensor([3.0], requires_grad=True),
        torch.tensor([1.0], requires_grad=True),
    )
    loss = dpo(chosen, rejected, torch.tensor([0.5]), 0.1, 0.0, 2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-(0.1 * 2 - 0.5))) / 2, abs=1e-6)
    for_chosen, for_rejected = gradient_of(loss, chosen, rejected)
    assert for_chosen == pytest.approx(
        -0.1 / (1 + math.exp(-0.3)) / 2, abs=1e-6
    )  # at most beta: descent raises the chosen
    assert for_rejected == -for_chosen


def test_smoothed_dpo_has_its_minimum_at_the_flip_rate() -> None:
    even = math.log(0.8 / 0.2) / 0.1  # beta gap = logit of the share of right labels
    chosen = torch.tensor([even], requires_grad=True)
    flat = gradient_of(dpo(chosen, torch.zeros(1), torch.zeros(1), 0.1, 0.2, 1), chosen)
    assert flat == pytest.approx([0.0], abs=1e-7)
    beyond = torch.tensor([even + 5], requires_grad=True)
    assert gradient_of(dpo(beyond, torch.zeros(1), torch.zeros(1), 0.1, 0.2, 1), beyond)[0] > 1e-3
    assert gradient_of(dpo(beyond, torch.zeros(1), torch.zeros(1), 0.1, 0.0, 1), beyond)[0] < 0


def test_flipped_label_requires_the_margin_in_reverse() -> None:
    loss = dpo(torch.tensor([3.0]), torch.tensor([1.0]), torch.tensor([0.5]), 0.1, 0.2, 1)
    gap = 0.1 * 2 - 0.5
    wanted = 0.8 * math.log(1 + math.exp(-gap)) + 0.2 * math.log(1 + math.exp(gap))
    assert loss.item() == pytest.approx(wanted, abs=1e-6)


def test_kto_loss_equals_values_computed_by_hand() -> None:
    ratios, up = torch.tensor([2.0, 2.0, -1.0]), torch.tensor([True, False, False])
    sigmoid = [1 / (1 + math.exp(-x)) for x in (0.1 * (2 - 0.5), 0.1 * (0.5 - 2), 0.1 * (0.5 + 1))]
    wanted = (4 * (1 - sigmoid[0]) + 1 * (1 - sigmoid[1]) + 1 * (1 - sigmoid[2])) / 6
    assert kto(ratios, up, 0.5, 0.1, (4.0, 1.0), 6).item() == pytest.approx(wanted, abs=1e-6)


def test_kto_raises_liked_and_lowers_disliked_responses_by_weight() -> None:
    ratios = torch.zeros(2, requires_grad=True)
    (gradient,) = torch.autograd.grad(
        kto(ratios, torch.tensor([True, False]), 0.0, 0.1, (4.0, 1.0), 2), ratios
    )
    assert gradient.tolist() == pytest.approx([-4 * 0.1 / 4 / 2, 0.1 / 4 / 2], abs=1e-7)
