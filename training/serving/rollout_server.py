"""Settings of the model server that samples for PPO and GRPO."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from training.errors import ConfigError
from training.runtime.paths import read_file
from training.runtime.ranges import (
    Count,
    CountOrZero,
    Limit,
    OpenFraction,
    Positive,
    check_fields,
)
from training.serving.vllm import LORA_RANKS


class ServerEngine(StrEnum):
    """Model servers that can sample."""

    VLLM = "vllm"
    PREDICTOR = "predictor"


class ServedType(StrEnum):
    """Number type in which a server computes; uint8 are the predictor's 8-bit weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    UINT8 = "uint8"


SUPPORTED = {
    ServerEngine.VLLM: (ServedType.BFLOAT16, ServedType.FLOAT16, ServedType.FLOAT32),
    ServerEngine.PREDICTOR: (ServedType.FLOAT32, ServedType.UINT8),
}


@dataclass(frozen=True)
class RolloutServer:
    """Model server that samples the rollouts instead of the policy itself.

    The first worker starts the server on loopback, or `address` names one that is running and reads
    this machine's files.

    Attributes:
        engine: vllm, or predictor, Thumbwheel's own server for CPUs
        dtype: number type of the server: bfloat16, float16 or float32 with vllm, float32 or uint8
            with predictor
        python: interpreter of the environment in which vllm is installed; none: that of the vllm
            that serves users on this machine (TW_TRAINING_VLLM_PYTHON), else that of the trainer
        address: URL of a running server that serves the model to train and nothing else; none:
            started by the first worker
        key_file: file with the key of the server at address; none: no key
        exports_directory: folder for weights on their way to the server, also read by it; none: a
            temporary folder
        concurrency: responses that are sampled at once, at least 1
        kv_gigabytes: memory of a started server for keys and values on a CPU, above 0; on a GPU
            see gpu_memory
        gpus: numbers of the machine's GPUs for a started vllm, comma-separated, at least 0 each;
            several divide the model (--tensor-parallel-size), and those below the number of workers
            are shared with training; none: the GPU of the first worker
        gpu_memory: part of the memory of each GPU that a started vllm takes
            (--gpu-memory-utilization), in (0, 1); none: vLLM's default, or what training leaves in
            a run of the recipe auto
        arguments: additional arguments of a started vllm, comma-separated, for example
            --enforce-eager
        mismatch_limit_nats: mean difference of a sampled token's log-prob between trainer and
            server above which the run fails, above 0; none: that of dtype
    """

    engine: ServerEngine = ServerEngine.VLLM
    dtype: ServedType = ServedType.BFLOAT16
    python: Path | None = None
    address: str | None = None
    key_file: Path | None = None
    exports_directory: Path | None = None
    concurrency: Count = 16
    kv_gigabytes: Positive = 1.0
    gpus: tuple[CountOrZero, ...] = ()
    gpu_memory: OpenFraction | None = None
    arguments: tuple[str, ...] = ()
    mismatch_limit_nats: Limit | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        supported = SUPPORTED[self.engine]
        if self.dtype not in supported:
            raise ConfigError(
                f"dtype: {self.dtype.value} is not a type of {self.engine.value}",
                field="dtype",
                reason="UNSUPPORTED",
                limit=", ".join(kind.value for kind in supported),
            )
        for name, given in (("gpus", self.gpus), ("gpu_memory", self.gpu_memory)):
            if given and (self.engine is not ServerEngine.VLLM or self.address is not None):
                raise ConfigError(
                    f"{name}: only for a vllm that the first worker starts",
                    field=name,
                    reason="CONFLICT",
                )
        if self.key_file is not None and self.address is None:
            raise ConfigError(
                "key_file: a server that is started draws its key; set address too",
                field="key_file",
                reason="CONFLICT",
            )

    def shared_gpus(self, workers: int) -> int:
        """Return the number of GPUs that a started vLLM shares with workers, one worker a GPU."""
        if self.engine is not ServerEngine.VLLM or self.address is not None:
            return 0
        return sum(number < workers for number in self.gpus) if self.gpus else 1

    @property
    def key(self) -> str:
        """Return the key in key_file, "" without one.

        Raises:
            ConfigError: the file cannot be read.
        """
        if self.key_file is None:
            return ""
        return read_file("rollout_server.key_file", self.key_file).strip()

    def check_rank(self, rank: int) -> None:
        """Check that the engine has kernels for adapters of this rank.

        Raises:
            ConfigError: the rank is too high for vLLM.
        """
        if self.engine is ServerEngine.VLLM and rank > LORA_RANKS[-1]:
            raise ConfigError(
                f"lora.rank: {rank} is above {LORA_RANKS[-1]}, the highest rank of vLLM",
                field="lora.rank",
                reason="TOO_LARGE",
                limit=f"at most {LORA_RANKS[-1]}",
            )
