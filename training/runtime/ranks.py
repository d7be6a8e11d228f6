"""Ranks of a run: the rows of each worker, and sums over all workers.

Workers that hold parts of the same model read the same rows; sums are over workers with different
rows. Every worker must call `sum` and `wait` equally often. Without a group nothing is exchanged.
torch is imported in functions, because every command imports this module.
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
    """Position of a worker among all workers.

    Attributes:
        rank: among all workers, of which there are world_size.
        data_rank: among workers with different rows, of which there are data_size.
        mesh: arrangement of the model's parts (training/parallelism/layout.py); None if every
            worker has the whole model.
        data_group: workers with the same part of the model and different rows; None for all
            workers.
        peers: workers with the same rows; None if there are no others.
        pipeline: workers with consecutive parts of a model, in this order
            (training/parallelism/pipeline.py); None without a pipeline.
        narrow: all workers compute in bfloat16, so shards are gathered in bfloat16.
        stores_narrow: frozen matrices are stored in bfloat16 (`runtime.machine.stores_narrow`).
        world_sizes: possible numbers of workers of an elastic run.
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
    stores_narrow: bool = False

    @property
    def data_sizes(self) -> list[int]:
        """Return the possible numbers of workers with different rows."""
        each = self.world_size // self.data_size
        return sorted({self.data_size, *(size // each for size in self.world_sizes)})

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """Return this worker's rows of a step."""
        return list(rows[self.data_rank :: self.data_size])

    def sum(self, value: Tensor) -> Tensor:
        """Sum in place over workers with different rows; return the tensor."""
        if self.data_size > 1:
            import torch.distributed as dist

            dist.all_reduce(value, group=self.data_group)
        return value

    def sum_of_peers(self, value: Tensor) -> Tensor:
        """Sum in place over workers with the same rows; return the tensor."""
        if self.peers is not None:
            import torch.distributed as dist

            dist.all_reduce(value, group=self.peers)
        return value

    @property
    def is_first_peer(self) -> bool:
        """Return True if this worker is the first of the workers with the same rows."""
        if self.peers is None:
            return True
        import torch.distributed as dist

        return dist.get_rank(self.peers) == 0

    def broadcast(self, value: Tensor) -> Tensor:
        """Broadcast the value of the first worker with the same rows, in place; return it."""
        if self.peers is not None:
            import torch.distributed as dist

            dist.broadcast(value, group=self.peers, group_src=0)
        return value

    def any(self, here: bool) -> bool:
        """Return True if `here` is True on any worker.

        Every worker must call this equally often.
        """
        if self.world_size == 1:
            return here
        import torch
        import torch.distributed as dist

        workers = torch.tensor(float(here))
        dist.all_reduce(workers)
        return bool(workers)

    def wait(self) -> None:
        """Wait until every worker has called this."""
        if self.world_size > 1:
            import torch.distributed as dist

            dist.barrier()


ALONE = Ranks()


def all_different(rank: int, world_size: int, world_sizes: Sequence[int] = ()) -> Ranks:
    """Return ranks for workers with the whole model and different rows."""
    return Ranks(rank, world_size, rank, world_size, world_sizes=world_sizes)
