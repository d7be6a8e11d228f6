"""Values over all workers: two workers with half of the rows each agree with one worker."""

import pytest
import torch
from torch import nn

from tests.training.threaded_ranks import on_two_ranks
from training.losses.policy import Normalisation, token_weights
from training.optim.gradients import (
    EXCLUDED_FROM_NORM,
    PARTIAL_OVER_HEADS,
    apply_gradients,
    clip_gradients,
)
from training.rl.advantages import explained_variance, whiten
from training.rl.experience import batch_means
from training.runtime.ranks import ALONE, Ranks

LENGTHS = torch.tensor([6, 1, 4, 2, 5])  # one worker has three rows, the other one two
MASK_BR = (torch.arange(6) < LENGTHS[:, None]).long()
VALUES_BR, RETURNS_BR = (
    torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)) + LENGTHS[:, None]
    for seed in (1, 2)
)


def mine(ranks: Ranks, of_all: torch.Tensor) -> torch.Tensor:
    return of_all[ranks.data_rank :: ranks.data_size].clone()


def test_whitening_covers_the_tokens_of_all_workers() -> None:
    whole_BR = whiten(VALUES_BR, MASK_BR, ALONE)
    parts = on_two_ranks(lambda ranks: whiten(mine(ranks, VALUES_BR), mine(ranks, MASK_BR), ranks))
    for rank, part_BR in enumerate(parts):
        assert torch.allclose(part_BR, whole_BR[rank::2], atol=1e-6)


def test_explained_variance_covers_all_workers() -> None:
    whole = explained_variance(VALUES_BR, RETURNS_BR, MASK_BR, ALONE)
    of_halves = on_two_ranks(
        lambda ranks: explained_variance(
            *(mine(ranks, of_all) for of_all in (VALUES_BR, RETURNS_BR, MASK_BR)), ranks
        )
    )
    assert of_halves == pytest.approx([whole] * 2, abs=1e-6)


@pytest.mark.parametrize("normalisation", list(Normalisation))
def test_token_weights_count_tokens_and_responses_of_all_workers(
    normalisation: Normalisation,
) -> None:
    whole_BR = token_weights(MASK_BR, ALONE, normalisation, 7)
    parts = on_two_ranks(lambda ranks: token_weights(mine(ranks, MASK_BR), ranks, normalisation, 7))
    for rank, part_BR in enumerate(parts):
        assert torch.allclose(part_BR, whole_BR[rank::2], atol=1e-7)


def test_figures_are_means_over_all_workers() -> None:
    found = on_two_ranks(lambda ranks: batch_means({"length": mine(ranks, LENGTHS).float()}, ranks))
    assert found == [{"length": pytest.approx(3.6)}] * 2


def test_gradients_are_summed_and_clipped_together() -> None:
    """Each worker has its part of a loss that is a sum over a global count."""

    def stepped(ranks: Ranks) -> tuple[list[float], float]:
        weight = nn.Parameter(torch.tensor([3.0, 1.0]))
        for length in mine(ranks, LENGTHS).tolist():
            torch.autograd.backward((weight * torch.tensor([length, 1.0])).sum() / len(LENGTHS))
        norm = apply_gradients(torch.optim.SGD([weight], lr=1.0), [weight], 0.5, 2.0, ranks)
        return weight.tolist(), norm

    weight, norm = stepped(ALONE)
    assert norm > 2.0
    for other, others_norm in on_two_ranks(stepped):
        assert other == pytest.approx(weight, abs=1e-6)
        assert others_norm == pytest.approx(norm)


def test_peers_sum_only_gradients_of_head_norms() -> None:
    """Sum head norms over peers, because each peer has a part; other gradients are complete."""

    def stepped(ranks: Ranks) -> tuple[list[float], float]:
        of_heads, other = (nn.Parameter(torch.tensor([3.0, 1.0])) for _ in range(2))
        setattr(of_heads, PARTIAL_OVER_HEADS, True)
        for head in LENGTHS[ranks.rank :: ranks.world_size].tolist():
            torch.autograd.backward((of_heads * torch.tensor([head, 1.0])).sum() / len(LENGTHS))
        torch.autograd.backward((other * torch.tensor([1.0, 2.0])).sum())
        both = [of_heads, other]
        norm = apply_gradients(torch.optim.SGD(both, lr=1.0), both, 0.5, 2.0, ranks)
        return [*of_heads.tolist(), *other.tolist()], norm

    weights, norm = stepped(ALONE)
    assert norm > 2.0
    for others, others_norm in on_two_ranks(stepped, peers=True):
        assert others == pytest.approx(weights, abs=1e-6)
        assert others_norm == pytest.approx(norm)


def test_excluded_copy_is_clipped_but_not_part_of_the_norm() -> None:
    own, copy = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    own.grad, copy.grad = torch.tensor([3.0]), torch.tensor([4.0])
    setattr(copy, EXCLUDED_FROM_NORM, True)
    assert clip_gradients([own, copy], 1.5, ALONE) == pytest.approx(3.0)
    assert (own.grad.item(), copy.grad.item()) == pytest.approx((1.5, 2.0))
