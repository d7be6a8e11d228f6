"""Corrections for a sampler that differs from the trainer, and rejected rollouts."""

import pytest
import torch

from tests.support.errors import refused
from training.losses.policy import Clip, policy_loss
from training.rl.correction import (
    StaleRolloutError,
    check_staleness,
    mismatch,
    truncated_importance,
)


def test_token_weight_is_trainer_over_sampler_up_to_the_cap() -> None:
    old, sampler = (
        torch.tensor([[-1.0, -1.0, -1.0]], requires_grad=True),
        torch.tensor([[-1.0, -2.0, -0.5]]),
    )
    weights = truncated_importance(old, sampler, cap=2.0)
    assert weights[0].tolist() == pytest.approx([1.0, 2.0, 0.60653], abs=1e-4)
    assert not weights.requires_grad
    assert torch.isfinite(
        truncated_importance(torch.zeros(1, 1), torch.full((1, 1), -900.0), 1e30)
    ).all()


def test_corrected_samples_give_the_exact_gradient() -> None:
    """Compare with the exact gradient of a bandit with six arms.

    The samples are from other probabilities than those of the trainer.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, generator=generator, requires_grad=True)
    sampler, rewards = torch.randn(6, generator=generator).log_softmax(0), torch.linspace(-1, 1, 6)
    (exact,) = torch.autograd.grad((logits.softmax(0) * rewards).sum(), logits)
    drawn = torch.multinomial(sampler.exp(), 200_000, replacement=True, generator=generator)
    now = logits.log_softmax(0)[drawn][:, None]
    baseline = (logits.detach().softmax(0) * rewards).sum()

    def gradient(weights: torch.Tensor) -> torch.Tensor:
        advantages = (rewards[drawn] - baseline)[:, None]
        loss = policy_loss(now, now.detach(), advantages, weights / len(drawn), Clip()).loss
        (found,) = torch.autograd.grad(-loss, logits, retain_graph=True)
        return found

    corrected = gradient(truncated_importance(now.detach(), sampler[drawn][:, None], cap=100.0))
    assert (corrected - exact).abs().max() < 0.01
    assert (gradient(torch.ones_like(now)) - exact).abs().max() > 0.05


def test_mismatch_covers_real_tokens_and_its_kl_is_not_negative() -> None:
    old, sampler = torch.tensor([[-1.0, -3.0, 50.0]]), torch.tensor([[-1.5, -2.0, 0.0]])
    figures = mismatch(old, sampler, torch.tensor([[1, 1, 0]]))
    assert figures["sampler_mismatch"].tolist() == pytest.approx([0.5, 1.0])
    assert (figures["sampler_kl"] > 0).all()
    assert mismatch(old, old, torch.ones(1, 3))["sampler_kl"].tolist() == [0, 0, 0]


def test_rollouts_beyond_the_staleness_limit_are_rejected() -> None:
    check_staleness("update-7", 7, 0)
    check_staleness("update-5", 7, 2)
    too_old = {"field": "max_staleness_updates", "reason": "STALE_ROLLOUT", "limit": "at most 2"}
    with refused(StaleRolloutError, **too_old) as caught:
        check_staleness("update-4", 7, 2)
    assert "update-4" in str(caught.value)
    with refused(StaleRolloutError, **too_old):
        check_staleness("update-8", 7, 2)
    for foreign in ("nano-1", ""):
        with refused(StaleRolloutError, field="version", reason="UNKNOWN", limit="update-7"):
            check_staleness(foreign, 7, 2)
