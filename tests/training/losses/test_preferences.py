"""Tests of the losses of preferences."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.losses.preferences import bradley_terry, centring, dpo, kto, margin_ranking


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


@pytest.mark.parametrize(
    "pair_loss",
    [
        lambda a, b, m, w: bradley_terry(a, b, m, torch.zeros(2).bool(), 2, w),
        lambda a, b, m, w: margin_ranking(a, b, m, torch.zeros(2).bool(), 2, w),
        lambda a, b, m, w: dpo(a, b, m, 0.5, 0.1, 2, w),
    ],
)
def test_a_pair_counts_by_its_weight(pair_loss: Callable[..., Tensor]) -> None:
    chosen, rejected, margin = torch.tensor([0.5, 2.0]), torch.tensor([0.2, 2.5]), torch.ones(2)

    def loss(*weights: float) -> float:
        return pair_loss(chosen, rejected, margin, torch.tensor(weights)).item()

    assert loss(0.25, 1) == pytest.approx(loss(0.25, 0) + loss(0, 1), abs=1e-6)
    assert loss(0.25, 0) == pytest.approx(loss(1, 0) / 4, abs=1e-6)
    assert loss(1, 0) != loss(0, 1)
