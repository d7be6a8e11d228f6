"""The scalar head as it begins, and what it reads of a hidden state."""

import math

import torch

from training.model.head import ScalarHead, last_real_column


def test_a_fresh_head_has_the_deviation_of_the_paper_and_a_critics_says_nothing() -> None:
    head, critic = (ScalarHead(4095, seed).requires_grad_(False) for seed in (1, None))
    assert math.isclose(head.score.weight.std().item(), 1 / 64, rel_tol=0.05)
    assert abs(head.score.weight.mean().item()) < 1e-3
    assert torch.equal(head.score.weight, ScalarHead(4095, seed=1).score.weight)
    hidden = torch.randn(3, 4095)
    assert head(hidden).abs().min() > 0
    assert critic(hidden).abs().max() == 0
    assert head.score.bias.abs().max() == 0


def test_its_scalar_does_not_depend_on_the_scale_that_a_last_norm_gives() -> None:
    head, hidden = (
        ScalarHead(64, seed=1),
        torch.randn(5, 64, generator=torch.Generator().manual_seed(0)),
    )
    assert torch.allclose(head(hidden), head(300 * hidden), atol=1e-5)


def test_the_last_real_column_is_where_filling_on_the_right_begins() -> None:
    mask_BT = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]])
    assert last_real_column(mask_BT).tolist() == [1, 3, 0]
