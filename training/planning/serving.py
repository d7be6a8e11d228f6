"""Memory of a model server with a paged cache (vLLM) on GPUs: weights, and keys and values.

The estimate helps to choose `--gpu-memory-utilization` and `--max-model-len` before a server is
started. vLLM measures itself at its start and refuses what does not fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import ConfigError
from training.model.config import ModelConfig
from training.model.lora import LoraConfig
from training.planning.accelerators import GIB
from training.planning.step import adapter_size, sizes_of

# An assumption for activations of a prefill, CUDA graphs and fragmentation.
OVERHEAD_GIB = 1.5


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
    if model.num_kv_heads % gpus and gpus % model.num_kv_heads:
        raise ConfigError(
            f"tensor-parallel-size: {gpus} GPUs do not divide {model.num_kv_heads} heads of keys",
            field="tensor-parallel-size",
            reason="MISMATCH",
        )
    limit = gpu_gib * GIB * fraction
    weights = sizes_of(model).total * weight_bits / 8 / gpus
    heads = max(1, model.num_kv_heads // gpus)
    # Sliding layers keep a window only; counted as whole layers for contexts below the window.
    token = sum(
        4 * heads * model.head_dim * min(1.0, (window or context_tokens) / context_tokens)
        for window in model.windows
    )
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
