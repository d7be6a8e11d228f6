"""Initial weights of the scalar head, and its invariance to the scale of hidden states."""

import math

import torch

from training.model.reward import ScalarHead, last_real_column


def test_new_head_has_the_papers_deviation_and_a_critics_is_zero() -> None:
    head, critic = (ScalarHead(4095, seed).requires_grad_(False) for seed in (1, None))
    assert math.isclose(head.score.weight.std().item(), 1 / 64, rel_tol=0.05)
    assert abs(head.score.weight.mean().item()) < 1e-3
    assert torch.equal(head.score.weight, ScalarHead(4095, seed=1).score.weight)
    hidden = torch.randn(3, 4095)
    assert head(hidden).abs().min() > 0
    assert critic(hidden).abs().max() == 0
    assert head.score.bias.abs().max() == 0


def test_scalar_is_independent_of_the_scale_of_the_hidden_state() -> None:
    head, hidden = (
        ScalarHead(64, seed=1),
        torch.randn(5, 64, generator=torch.Generator().manual_seed(0)),
    )
    assert torch.allclose(head(hidden), head(300 * hidden), atol=1e-5)


def test_last_real_column_precedes_the_right_padding() -> None:
    mask_BT = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]])
    assert last_real_column(mask_BT).tolist() == [1, 3, 0]
