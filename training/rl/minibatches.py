"""Minibatches of policy learning: shuffled rows of an experience for each optimizer step.

Ranks with fewer live rows fill their minibatches with filtered rows, because every rank must take
the same number of steps with the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.runtime.ranks import Ranks


def minibatches(live_B: Tensor, rows: int, seed: int, ranks: Ranks) -> Iterator[Tensor]:
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
