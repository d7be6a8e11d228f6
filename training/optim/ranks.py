"""One worker of a run among the others: which rows are its own, and sums over all of them. Alone, nothing is exchanged.

Every worker must call `sum` and `wait` equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

Row = TypeVar("Row")


@dataclass(frozen=True)
class Ranks:
    """rank and world_size are of all workers; data_rank and data_size of those that read different rows."""

    rank: int = 0
    world_size: int = 1
    data_rank: int = 0
    data_size: int = 1

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """This worker's rows of a step."""
        return list(rows[self.data_rank :: self.data_size])

    def sum(self, value: Tensor) -> Tensor:
        """The sum of all workers' tensors, in place, and returned."""
        if self.data_size > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Go on when every worker is here."""
        if self.world_size > 1:
            dist.barrier()


ALONE = Ranks()


def all_different(rank: int, world_size: int) -> Ranks:
    """Every worker has the whole model and rows of its own."""
    return Ranks(rank, world_size, rank, world_size)
