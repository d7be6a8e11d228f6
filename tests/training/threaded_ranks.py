"""Two ranks of a run as two threads of a test.

Each gets the real sums of both, without processes and gloo.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import TypeVar

from torch import Tensor

from training.runtime.ranks import Ranks

Found = TypeVar("Found")


class SharedTable:
    """Exchange of values between the two ranks."""

    def __init__(self) -> None:
        self.barrier, self.values = Barrier(2, timeout=60), [Tensor(), Tensor()]


@dataclass(frozen=True)
class ThreadRank(Ranks):
    """One of two ranks."""

    table: SharedTable = field(default_factory=SharedTable)

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


def on_two_ranks(work: Callable[[Ranks], Found], *, peers: bool = False) -> list[Found]:
    """Return the results of `work` on two ranks.

    peers: both ranks have the same rows.
    """
    table = SharedTable()
    both = [
        ThreadRank(rank, 2, 0 if peers else rank, 1 if peers else 2, table=table)
        for rank in range(2)
    ]
    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(work, both))
