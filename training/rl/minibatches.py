"""Minibatches of an update: shuffled rows for each optimizer step, and sums for the log.

Ranks with fewer live rows fill their minibatches with filtered rows, because every rank must take
the same number of steps with the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.losses.policy import PolicyLoss
from training.rl.experience import E
from training.runtime.ranks import Ranks


def minibatches(
    experience: E, epochs: int, rows: int, seeds: tuple[int, int], ranks: Ranks
) -> Iterator[E]:
    """Yield the minibatches of all epochs, each epoch in its own order.

    Rows without tokens to learn from are left out.

    Args:
        rows: rows of a minibatch, all workers together.
        seeds: seed of the run, and number of the update.
    """
    live_B = experience.mask_BR.any(dim=1)
    for epoch in range(epochs):
        seed = seed_of(seeds[0], "minibatches", seeds[1], epoch)
        for index in shuffled_rows(live_B, rows // ranks.data_size, seed, ranks):
            yield experience.rows(index)


def shuffled_rows(live_B: Tensor, rows: int, seed: int, ranks: Ranks) -> Iterator[Tensor]:
    """Yield row numbers of this rank per minibatch, of nearly equal size, on the CPU.

    Nothing is yielded if no rank has a live row.

    Args:
        live_B: True for each row with a learning signal.
        rows: maximum rows of a minibatch on this rank.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, ranks.data_rank))
    live_B = live_B.cpu()
    order_B = torch.randperm(len(live_B), generator=generator, device="cpu")
    order_B = order_B[(~live_B[order_B]).long().argsort(stable=True)]  # live rows first
    most = max_over_ranks(int(live_B.sum()), ranks)
    steps = -(-most // rows)
    for step in range(steps):
        yield order_B[:most][step::steps]


def max_over_ranks(count: int, ranks: Ranks) -> int:
    """Return the highest count of any rank, computed with a sum over one slot per rank."""
    counts = torch.zeros(ranks.data_size)
    counts[ranks.data_rank] = count
    return int(ranks.sum(counts).max())


class MinibatchSums:
    """Sums over the minibatches of an update, over all ranks.

    Args:
        losses: names of the losses that every minibatch has.
    """

    def __init__(self, losses: Sequence[str], ranks: Ranks) -> None:
        self._losses, self._ranks = losses, ranks
        # In order: tokens, clipped tokens, approximate KL, losses.
        self._totals = torch.zeros(3 + len(losses))
        self._last = self._totals
        self.count = 0  # minibatches

    def add(self, mask_BR: Tensor, policy: PolicyLoss, losses: Sequence[Tensor]) -> None:
        """Add a minibatch. Every rank calls this method."""
        numbers = (mask_BR.sum(), policy.clipped_tokens, policy.approximate_kl_sum, *losses)
        here = torch.stack([number.detach().float() for number in numbers])
        self._last = self._ranks.sum(here)
        self._totals, self.count = self._totals + self._last, self.count + 1

    def kl_exceeds(self, nats: float | None) -> bool:
        """Return True if the KL of new to old policy is above `nats` per token.

        The KL is that of the last minibatch; None is no limit.
        """
        return nats is not None and float(self._last[2] / self._last[0]) > nats

    def figures(self) -> dict[str, float]:
        """Return means: each loss over minibatches, clip_fraction and approximate_kl over tokens.

        Also the number of minibatches.
        """
        tokens, clipped, approximate_kl, *losses = self._totals.tolist()
        means = {
            name: total / max(1, self.count)
            for name, total in zip(self._losses, losses, strict=True)
        }
        return means | {
            "clip_fraction": clipped / max(1, tokens),
            "approximate_kl": approximate_kl / max(1, tokens),
            "minibatches": float(self.count),
        }
