"""Log-probabilities of chosen tokens, compared with the whole distribution, and cross-entropy."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.planning.peaks import Living
from tests.training.rl.toy import toy_decoder
from training.losses import log_probs
from training.losses.log_probs import (
    chosen_log_probs,
    head_figures,
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
        found_N, entropy_N = chosen_log_probs(
            decoder, decoder(IDS_BT), IDS_BT, CHOSEN_BT, 0.5, with_entropy=True
        )
    wanted = all_BTV.gather(-1, IDS_BT[..., None]).squeeze(-1)[CHOSEN_BT]
    assert torch.allclose(found_N, wanted, atol=1e-5)
    chosen_NV = all_BTV[CHOSEN_BT]
    assert torch.allclose(entropy_N, -(chosen_NV.exp() * chosen_NV).sum(-1), atol=1e-5)


@settings(deadline=None, max_examples=40)
@given(
    positions=st.integers(1, 9),
    vocabulary=st.integers(1, 11),
    width=st.integers(1, 5),
    chunk=st.integers(1, 60),
    temperature=st.sampled_from((0.5, 1.0, 3.0)),
    trained=st.sampled_from(((True, True), (True, False), (False, True), (False, False))),
    seed=st.integers(0, 1000),
)
def test_chunks_give_the_values_and_gradients_of_stored_logits(
    positions: int,
    vocabulary: int,
    width: int,
    chunk: int,
    temperature: float,
    trained: tuple[bool, bool],
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    states_ND = torch.randn(positions, width, generator=generator)
    weight_VD = torch.randn(vocabulary, width, generator=generator)
    targets_N = torch.randint(vocabulary, (positions,), generator=generator)
    factors_N = torch.randn(positions, generator=generator)

    def figures(stored: int) -> list[torch.Tensor]:
        inputs = [
            value.clone().requires_grad_(learns)
            for value, learns in zip((states_ND, weight_VD), trained, strict=True)
        ]
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(log_probs, "STORED_LOGITS", stored)
            patched.setattr(log_probs, "CHUNK_LOGITS", chunk)
            found_N, entropy_N = head_figures(inputs[1], inputs[0], targets_N, temperature, True)
            assert not entropy_N.requires_grad
            if any(trained):
                torch.autograd.backward((found_N * factors_N).sum())
        gradients = [value.grad for value in inputs if value.grad is not None]
        assert len(gradients) == sum(trained)
        return [found_N.detach(), entropy_N, *gradients]

    for chunked, whole in zip(figures(0), figures(1 << 20), strict=True):
        torch.testing.assert_close(chunked, whole, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("trains_head", [False, True], ids=["lora", "full"])
def test_chunks_store_no_logits(monkeypatch: pytest.MonkeyPatch, trains_head: bool) -> None:
    positions, vocabulary, width = 64, 512, 4
    monkeypatch.setattr(log_probs, "CHUNK_LOGITS", 8 * vocabulary)
    states_ND = torch.randn(positions, width, requires_grad=True)
    weight_VD = torch.randn(vocabulary, width, requires_grad=trains_head)

    def peak() -> int:
        living = Living()
        with living:
            torch.autograd.backward(
                head_figures(weight_VD, states_ND, torch.zeros(positions).long()).log_probs_N.sum()
            )
        return living.peak

    stored = peak()
    monkeypatch.setattr(log_probs, "STORED_LOGITS", 0)
    logit_bytes = 4 * positions * vocabulary
    assert stored > 3 * logit_bytes
    # Two values of a chunk, an eighth of all each, and states and head with their gradients.
    assert peak() < 0.5 * logit_bytes


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
