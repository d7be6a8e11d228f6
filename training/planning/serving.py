"""Memory of a model server with a paged cache (vLLM) on GPUs: weights, and keys and values.

A server for rollouts can share GPUs with training.

The estimate helps to choose `--gpu-memory-utilization` and `--max-model-len` before a server is
started. vLLM measures itself at its start and refuses what does not fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from training.errors import ConfigError
from training.model.config import LoraConfig, ModelConfig
from training.planning.accelerators import GIB, Accelerator
from training.planning.step import Server, adapter_size, sizes_of
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine
from training.serving.vllm import LORA_RANKS

# An assumption for activations of a prefill, CUDA graphs and fragmentation.
OVERHEAD_GIB = 1.5
# Of a start of the small model on a CPU (docs/decisions/vllm.md); on GPUs not measured. Reading of
# weights is assumed.
START_SECONDS, LOADED_BYTES_PER_SECOND = 75.0, 1e9
DEFAULT_GPU_MEMORY = 0.9  # of vLLM
TYPE_BYTES = {ServedType.FLOAT32: 4, ServedType.BFLOAT16: 2, ServedType.FLOAT16: 2}


@dataclass(frozen=True)
class ServingPlan:
    """Memory of one GPU of a server, in bytes.

    Attributes:
        token_bytes: keys and values of one token.
        cache_tokens: tokens of all running answers together.
    """

    limit_bytes: float
    weight_bytes: float
    token_bytes: float
    cache_tokens: int
    adapter_bytes: float = 0.0

    def text(self) -> str:
        """Return the plan in a single line."""
        adapters = f"adapters {self.adapter_bytes / GIB:.1f}, " if self.adapter_bytes else ""
        return (
            f"{self.limit_bytes / GIB:.1f} GiB a GPU: weights {self.weight_bytes / GIB:.1f}, "
            f"{adapters}{OVERHEAD_GIB} for activations, the rest for {self.cache_tokens:,} tokens "
            "of context"
        )


def serving_bytes(
    model: ModelConfig,
    context_tokens: int,
    contexts: int,
    gpus: int,
    weight_bits: int = 16,
    lora: LoraConfig | None = None,
) -> float:
    """Return the memory of one GPU of a server with room for so many whole contexts.

    Args:
        lora: adapter of the policy; two versions of it have room, of a rank that vLLM has.

    Raises:
        ConfigError: the heads cannot be divided by the GPUs.
    """
    weights, token = _weights_and_token(model, context_tokens, gpus, weight_bits)
    if lora is not None:
        rank = next((rank for rank in LORA_RANKS if rank >= lora.rank), lora.rank)
        weights += 2 * adapter_size(model, LoraConfig(rank)) * weight_bits / 8
    return weights + OVERHEAD_GIB * GIB + token * context_tokens * contexts


def rollout_server(
    config: RolloutServer | None,
    model: ModelConfig,
    window_tokens: int,
    workers: int,
    accelerator: Accelerator,
    lora: LoraConfig | None = None,
) -> Server | None:
    """Return the vLLM that a run starts; None without one, or if it has no GPU.

    Its share of a GPU is `gpu_memory`, else the least: weights, activations and one context.

    Raises:
        ConfigError: it does not fit into its GPUs, or their number does not divide the heads.
    """
    if config is None or config.engine is not ServerEngine.VLLM or config.address is not None:
        return None
    if accelerator.is_cpu:
        return None
    gpus, bits = max(1, len(config.gpus)), 8 * TYPE_BYTES[config.dtype]
    is_shared = config.shared_gpus(workers) > 0
    least = serving_bytes(model, window_tokens, 1, gpus, bits, lora)
    given = config.gpu_memory
    if given is None:
        given = least / GIB / accelerator.memory_gib if is_shared else DEFAULT_GPU_MEMORY
    allowed = given * accelerator.memory_gib * GIB
    if least > allowed + 1:
        raise ConfigError(
            f"rollout_server.gpu_memory: {given:g} of {accelerator.memory_gib:g} GiB are "
            f"{allowed / GIB:.1f}, and weights, activations and one context of {window_tokens} "
            f"tokens need {least / GIB:.1f} on each of {gpus} GPUs",
            field="rollout_server.gpu_memory",
            reason="TOO_LARGE",
            limit=f"at least {least / GIB / accelerator.memory_gib:.2f}",
        )
    loaded = sizes_of(model).total * bits / 8
    return Server(
        gpus,
        config.concurrency,
        bits // 8,
        allowed if is_shared else 0.0,
        START_SECONDS + loaded / LOADED_BYTES_PER_SECOND,
    )


def with_spare_memory(
    config: RolloutServer,
    model: ModelConfig,
    window_tokens: int,
    spare_bytes: float,
    accelerator: Accelerator,
    lora: LoraConfig | None = None,
) -> RolloutServer:
    """Return the server with the share of its GPUs that training leaves.

    At most what all concurrent responses need.

    Args:
        spare_bytes: usable memory of a GPU without that of training.
    """
    gpus, bits = max(1, len(config.gpus)), 8 * TYPE_BYTES[config.dtype]
    wanted = serving_bytes(model, window_tokens, config.concurrency, gpus, bits, lora)
    share = min(spare_bytes, wanted) / GIB / accelerator.memory_gib
    return replace(config, gpu_memory=math.floor(1000 * share) / 1000)


def _weights_and_token(
    model: ModelConfig, context_tokens: int, gpus: int, weight_bits: int
) -> tuple[float, float]:
    """Return the bytes of weights and of keys and values of a token on each GPU."""
    if model.num_kv_heads % gpus and gpus % model.num_kv_heads:
        raise ConfigError(
            f"tensor-parallel-size: {gpus} GPUs do not divide {model.num_kv_heads} heads of keys",
            field="tensor-parallel-size",
            reason="MISMATCH",
        )
    weights = sizes_of(model).total * weight_bits / 8 / gpus
    heads = max(1, model.num_kv_heads // gpus)
    # Sliding layers keep a window only; counted as whole layers for contexts below the window.
    token = sum(
        4 * heads * model.head_dim * min(1.0, (window or context_tokens) / context_tokens)
        for window in model.windows
    )
    return weights, token


def plan_serving(
    model: ModelConfig,
    gpu_gib: float,
    fraction: float,
    context_tokens: int,
    *,
    gpus: int = 1,
    weight_bits: int = 16,
    adapters: int = 0,
    adapter_rank: int = 64,
) -> ServingPlan:
    """Divide the memory of a GPU that a server may use.

    Args:
        fraction: `--gpu-memory-utilization`.
        context_tokens: `--max-model-len`; one such context must fit.
        gpus: `--tensor-parallel-size`.
        weight_bits: bits of a weight, 16 unless the model is quantised.
        adapters: `--max-loras`; with several GPUs each holds all of them at most.
        adapter_rank: `--max-lora-rank`, for which room is reserved.

    Raises:
        ConfigError: the model does not fit; the text names the largest part and what would fit.
    """
    limit = gpu_gib * GIB * fraction
    weights, token = _weights_and_token(model, context_tokens, gpus, weight_bits)
    lora = 2.0 * adapters * adapter_size(model, LoraConfig(adapter_rank))
    free = limit - weights - lora - OVERHEAD_GIB * GIB
    if free < token * context_tokens:
        needed = weights + lora + OVERHEAD_GIB * GIB + token * context_tokens
        fitting = max(0, int(free / token))
        raise ConfigError(
            f"gpu-memory-utilization: {fraction:g} of {gpu_gib:g} GiB are {limit / GIB:.1f}, and "
            f"weights ({weights / GIB:.1f}), adapters ({lora / GIB:.1f}), activations "
            f"({OVERHEAD_GIB}) and one context of "
            f"{context_tokens} tokens ({token * context_tokens / GIB:.1f}) need "
            f"{needed / GIB:.1f}; a context of {fitting} tokens would fit",
            field="gpu-memory-utilization",
            reason="TOO_LARGE",
            limit=f"at least {needed / GIB / gpu_gib:.2f}",
        )
    return ServingPlan(limit, weights, token, int(free / token), lora)
