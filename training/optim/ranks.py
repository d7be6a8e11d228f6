"""One worker of a run among the others: which rows are its own, and sums over all of them. Alone,
nothing is exchanged.

Workers that hold parts of one model read the same rows; sums go over those that read different
ones. Every worker must call `sum` and `wait` equally often. torch is imported where it is used:
every command knows this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

Row = TypeVar("Row")


@dataclass(frozen=True)
class Ranks:
    """rank and world_size are of all workers; data_rank and data_size of those that read different
    rows.

    mesh: how the model is split (training/parallelism.py); None: every worker has all of it.
        data_group: the workers that hold
    the same part of the model and read different rows; None: all. peers: the workers that read the
    same rows; None: no others do.
    pipeline: those that hold the parts of one model that follow each other, in this order; None: it
        is not cut (training/pipeline.py).
    narrow: all of them compute in bfloat16, so shards are gathered in it.
    world_sizes: that an elastic run may have, after this one or before.
    """

    rank: int = 0
    world_size: int = 1
    data_rank: int = 0
    data_size: int = 1
    mesh: DeviceMesh | None = None
    data_group: ProcessGroup | None = None
    peers: ProcessGroup | None = None
    pipeline: ProcessGroup | None = None
    world_sizes: Sequence[int] = ()
    narrow: bool = False

    @property
    def data_sizes(self) -> list[int]:
        """Numbers of workers that may have to share rows."""
        each = self.world_size // self.data_size
        return sorted({self.data_size, *(size // each for size in self.world_sizes)})

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """This worker's rows of a step."""
        return list(rows[self.data_rank :: self.data_size])

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the workers that read different rows, in place, and returned."""
        if self.data_size > 1:
            import torch.distributed as dist

            dist.all_reduce(value, group=self.data_group)
        return value

    def sum_of_peers(self, value: Tensor) -> Tensor:
        """The sum over the workers that read the same rows, in place, and returned."""
        if self.peers is not None:
            import torch.distributed as dist

            dist.all_reduce(value, group=self.peers)
        return value

    @property
    def speaks(self) -> bool:
        """Whether this worker is the first of those that read the same rows."""
        if self.peers is None:
            return True
        import torch.distributed as dist

        return dist.get_rank(self.peers) == 0

    def agree(self, value: Tensor) -> Tensor:
        """What the first of the workers that read the same rows has, in place, and returned."""
        if self.peers is not None:
            import torch.distributed as dist

            dist.broadcast(value, group=self.peers, group_src=0)
        return value

    def any(self, here: bool) -> bool:
        """Whether it is so on any worker of the run, whatever its part. Every worker must ask
        equally often.
        """
        if self.world_size == 1:
            return here
        import torch
        import torch.distributed as dist

        workers = torch.tensor(float(here))
        dist.all_reduce(workers)
        return bool(workers)

    def wait(self) -> None:
        """Go on when every worker is here."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()


ALONE = Ranks()


def all_different(rank: int, world_size: int, world_sizes: Sequence[int] = ()) -> Ranks:
    """Every worker has the whole model and rows of its own."""
    return Ranks(rank, world_size, rank, world_size, world_sizes=world_sizes)
