"""Log-probabilities of chosen tokens, compared with the whole distribution, and cross-entropy."""

import math

import pytest
import torch

from tests.training.rl.toy import toy_decoder
from training.losses.log_probs import (
    chosen_log_probs,
    next_token_log_probs,
    scatter_back,
    token_entropy,
    token_log_probs,
    weighted_cross_entropy,
)

IDS_BT = torch.tensor([[2, 3, 4, 5], [6, 7, 8, 9]])
CHOSEN_BT = torch.tensor([[True, False, True, True], [False, True, False, False]])


def whole(temperature: float) -> torch.Tensor:
    """Return the log-probabilities of all tokens at all positions."""
    decoder = toy_decoder()
    return (decoder.logits(decoder(IDS_BT)) / temperature).log_softmax(-1)


def test_chosen_token_is_predicted_by_the_position_before_it() -> None:
    with torch.no_grad():
        decoder, all_BTV = toy_decoder(), whole(1.0)
        found = next_token_log_probs(decoder, decoder(IDS_BT), IDS_BT, CHOSEN_BT)
    wanted = [all_BTV[0, 1, 4], all_BTV[0, 2, 5], all_BTV[1, 0, 7]]
    assert found.tolist() == pytest.approx([float(value) for value in wanted], abs=1e-5)


def test_head_runs_only_on_chosen_positions_at_the_temperature() -> None:
    with torch.no_grad():
        decoder, all_BTV = toy_decoder(), whole(0.5)
        found, logits_NV = chosen_log_probs(decoder, decoder(IDS_BT), IDS_BT, CHOSEN_BT, 0.5)
    assert logits_NV.shape[0] == 4
    wanted = all_BTV.gather(-1, IDS_BT[..., None]).squeeze(-1)[CHOSEN_BT]
    assert torch.allclose(found, wanted, atol=1e-5)


def test_values_are_scattered_to_their_positions_with_gradient() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    placed = scatter_back(values, CHOSEN_BT, CHOSEN_BT.shape)
    assert placed.tolist() == [[1.0, 0.0, 2.0, 3.0], [0.0, 4.0, 0.0, 0.0]]
    torch.autograd.backward((placed * torch.arange(8.0).view(2, 4)).sum())
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 2.0, 3.0, 5.0]


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
