"""Placement of the GPUs of a stage: groups that exchange data, and the rates between them.

The mesh is that of parallelism.py: copies, shards, tensor. GPUs of a tensor group are neighbours in
a machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import ConfigError
from training.model.config import LoraConfig, ModelConfig
from training.parallelism.layout import check_divisible
from training.planning.accelerators import GB, NODE_GPUS, SUSTAINED_SHARE, Accelerator
from training.runtime.context import Parallelism
from training.runtime.ranks import Ranks


@dataclass(frozen=True)
class Layout:
    """Number of GPUs and their parallelism.

    Pipelines are not supported; they would be another factor here and in `parts`.
    """

    gpus: int
    parallelism: Parallelism

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise ConfigError(
                f"gpus: {self.gpus}, at least 1",
                field="gpus",
                reason="OUT_OF_RANGE",
                limit="at least 1",
            )
        if self.parallelism.pipeline > 1:
            raise ConfigError(
                f"parallelism.pipeline: {self.parallelism.pipeline}, but plans support only 1",
                field="parallelism.pipeline",
                reason="UNSUPPORTED",
                limit="1",
            )
        if self.gpus % self.parts:
            raise ConfigError(
                f"parallelism: shard {self.shard} x tensor {self.tensor} is {self.parts}, "
                f"which does not divide {self.gpus} GPUs",
                field="parallelism",
                reason="OUT_OF_RANGE",
                limit=f"a divisor of {self.gpus}",
            )

    @property
    def shard(self) -> int:
        return self.parallelism.shard

    @property
    def tensor(self) -> int:
        return self.parallelism.tensor

    @property
    def parts(self) -> int:
        """Return the number of GPUs that hold one model together."""
        return self.shard * self.tensor

    @property
    def copies(self) -> int:
        """Return the number of model replicas."""
        return self.gpus // self.parts

    @property
    def data_size(self) -> int:
        """Return the number of workers with different rows."""
        return self.copies * self.shard

    @property
    def gathers(self) -> bool:
        """Return True if FSDP wraps the model.

        parallelism.py uses FSDP if a model is split and workers read different rows.
        """
        return self.parallelism.splits_model and self.data_size > 1

    @property
    def ranks(self) -> Ranks:
        """Return the ranks of the first worker, sufficient for counts of rows."""
        return Ranks(0, self.gpus, 0, self.data_size)

    def __str__(self) -> str:
        return f"shard {self.shard} x tensor {self.tensor}"

    def check(self, model: ModelConfig, lora: LoraConfig | None) -> None:
        """Check the constraints of `parallelism.distribute`.

        Raises:
            ConfigError: `tensor` does not divide heads or MLP, or adapters are used with tensor
                parallelism.
        """
        check_divisible(model, self.tensor)
        if self.tensor > 1 and lora is not None:
            raise ConfigError(
                "parallelism.tensor: adapters are not split across workers, use shard",
                field="parallelism.tensor",
                reason="CONFLICT",
            )

    def tensor_rate(self, accelerator: Accelerator) -> float:
        """Return the bytes per second in a tensor group."""
        return _rate(accelerator, 1, self.tensor)

    def shard_rate(self, accelerator: Accelerator) -> float:
        """Return the bytes per second between shards of a model."""
        return _rate(accelerator, self.tensor, self.shard)

    def copies_rate(self, accelerator: Accelerator) -> float:
        """Return the bytes per second between replicas."""
        return _rate(accelerator, self.parts, self.copies)


def _rate(accelerator: Accelerator, stride: int, size: int) -> float:
    """Return the rate of a ring of `size` GPUs with distance `stride`.

    Across machines, all members in a machine share their network adapters.
    """
    if stride * size <= NODE_GPUS:
        return accelerator.node_gb_per_second * GB * SUSTAINED_SHARE
    together = max(1, NODE_GPUS // stride)
    across = min(accelerator.node_gb_per_second, accelerator.network_gb_per_second * together)
    return across * GB * SUSTAINED_SHARE
