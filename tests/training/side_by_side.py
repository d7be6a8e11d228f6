"""Two workers of a run as two threads of a test: each gets the sum of what both really have,
without processes and gloo.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import TypeVar

from torch import Tensor

from training.optim.ranks import Ranks

Found = TypeVar("Found")


class Table:
    """Where both lay down what they sum."""

    def __init__(self) -> None:
        self.barrier, self.values = Barrier(2, timeout=60), [Tensor(), Tensor()]


@dataclass(frozen=True)
class Beside(Ranks):
    """One of them."""

    table: Table = field(default_factory=Table)

    def sum(self, value: Tensor) -> Tensor:
        return self._exchanged(value) if self.data_size > 1 else value

    def sum_of_peers(self, value: Tensor) -> Tensor:
        return self._exchanged(value) if self.data_size == 1 else value

    def _exchanged(self, value: Tensor) -> Tensor:
        self.table.values[self.rank] = value.clone()
        self.table.barrier.wait()
        value.copy_(self.table.values[0] + self.table.values[1])
        self.table.barrier.wait()
        return value


def side_by_side(work: Callable[[Ranks], Found], *, peers: bool = False) -> list[Found]:
    """What each of two workers has found. peers: they read the same rows."""
    table = Table()
    both = [
        Beside(rank, 2, 0 if peers else rank, 1 if peers else 2, table=table) for rank in range(2)
    ]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(work, both))
