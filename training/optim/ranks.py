"""Sums over the workers of a run; with one worker nothing happens. Every rank must call each of them equally often."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def sum_over_ranks(value: Tensor) -> Tensor:
    """The sum of every rank's tensor, in place, and returned."""
    if _distributed():
        dist.all_reduce(value)
    return value


def wait_for_ranks() -> None:
    """Go on when every rank is here."""
    if _distributed():
        dist.barrier()


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
