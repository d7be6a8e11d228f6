"""Advantages relative to the group, never to other prompts."""

import pytest
import torch

from training.rl.advantages import group_advantages, undecided_groups

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
