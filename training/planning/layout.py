"""Where the GPUs of a stage stand: which of them exchange what, and how fast. The mesh is
parallelism.py's: copies, shards, tensor, so that GPUs of one tensor group are neighbours in a
machine.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.model.config import ModelConfig
from training.model.lora import LoraConfig
from training.optim.ranks import Ranks
from training.parallelism import Parallelism, check_divisible
from training.planning.accelerators import GB, NODE_GPUS, SUSTAINED_SHARE, Accelerator
from training.stages.context import ConfigError


@dataclass(frozen=True)
class Layout:
    """gpus: all of them. A pipeline is not planned yet: it would be one more factor here and in
    `parts`.
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
                f"parallelism.pipeline: {self.parallelism.pipeline}, but pipelines are not planned yet",
                field="parallelism.pipeline",
                reason="UNSUPPORTED",
                limit="1",
            )
        if self.gpus % self.parts:
            raise ConfigError(
                f"parallelism: shard {self.shard} x tensor {self.tensor} is {self.parts}, which does not divide {self.gpus} GPUs",
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
        """GPUs that hold one model together."""
        return self.shard * self.tensor

    @property
    def copies(self) -> int:
        """Models that are trained side by side."""
        return self.gpus // self.parts

    @property
    def data_size(self) -> int:
        """Workers that read different rows."""
        return self.copies * self.shard

    @property
    def gathers(self) -> bool:
        """Whether FSDP wraps the model: parallelism.py does so wherever it splits one and workers
        read different rows.
        """
        return self.parallelism.splits_model and self.data_size > 1

    @property
    def ranks(self) -> Ranks:
        """The first worker, as far as counts of rows are concerned."""
        return Ranks(0, self.gpus, 0, self.data_size)

    def __str__(self) -> str:
        return f"shard {self.shard} x tensor {self.tensor}"

    def check(self, model: ModelConfig, lora: LoraConfig | None) -> None:
        """Refuse what parallelism.distribute would refuse.

        Raises:
            ConfigError: heads or MLP that tensor does not divide, or adapters where layers are
                split across.
        """
        check_divisible(model, self.tensor)
        if self.tensor > 1 and lora is not None:
            raise ConfigError(
                "parallelism.tensor: adapters are not split across workers, use shard",
                field="parallelism.tensor",
                reason="CONFLICT",
            )

    def tensor_rate(self, accelerator: Accelerator) -> float:
        """Bytes a second between GPUs that compute a layer together."""
        return _rate(accelerator, 1, self.tensor)

    def shard_rate(self, accelerator: Accelerator) -> float:
        """Bytes a second among those that hold its shards."""
        return _rate(accelerator, self.tensor, self.shard)

    def copies_rate(self, accelerator: Accelerator) -> float:
        """Bytes a second among copies."""
        return _rate(accelerator, self.parts, self.copies)


def _rate(accelerator: Accelerator, stride: int, size: int) -> float:
    """Of a ring of `size` GPUs, each `stride` after the other. Over machines all its members in one
    machine share their adapters.
    """
    if stride * size <= NODE_GPUS:
        return accelerator.node_gb_per_second * GB * SUSTAINED_SHARE
    together = max(1, NODE_GPUS // stride)
    across = min(accelerator.node_gb_per_second, accelerator.network_gb_per_second * together)
    return across * GB * SUSTAINED_SHARE
