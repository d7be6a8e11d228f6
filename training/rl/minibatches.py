"""Which rows an optimizer step of policy learning sees: several shuffled epochs over one
experience, as equal steps on every rank.

Surprise: ranks whose rows were filtered out fill up with them; every rank must take as many steps,
    of the same shapes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.optim.ranks import Ranks


def minibatches(live_B: Tensor, rows: int, seed: int, ranks: Ranks) -> Iterator[Tensor]:
    """Numbers of this rank's rows, minibatch by minibatch, of nearly one size, on the processor.
    Nothing where no rank has a live row.

    Args:
        live_B: True for each row that teaches something.
        rows: of a minibatch of this rank, at the most.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, ranks.data_rank))
    live_B = live_B.cpu()
    order_B = torch.randperm(len(live_B), generator=generator, device="cpu")
    order_B = order_B[(~live_B[order_B]).long().argsort(stable=True)]  # the live ones first
    most = most_of_ranks(int(live_B.sum()), ranks)
    steps = -(-most // rows)
    for step in range(steps):
        yield order_B[:most][step::steps]


def most_of_ranks(count: int, ranks: Ranks) -> int:
    """The highest count of any rank. Ranks only sum: each writes its own place."""
    counts = torch.zeros(ranks.data_size)
    counts[ranks.data_rank] = count
    return int(ranks.sum(counts).max())
