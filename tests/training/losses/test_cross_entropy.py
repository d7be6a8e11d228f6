"""Tests of the cross-entropy of response tokens."""

import pytest
import torch

from training.losses.cross_entropy import weighted_cross_entropy
from training.losses.log_probs import token_log_probs


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
