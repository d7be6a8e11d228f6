"""Context window of the served model: tokens of prompt and answer together, by model and device."""

import json
import math
import subprocess
from pathlib import Path

from infra.run.vllm_server.settings import VllmServerSettings
from services.contracts.limits import MAX_REPLY_TOKENS

# On two cores small reads 20,000 characters in 7 to 9 s (docs/sizing.md). The default cache of the
# predictor (`kv_blocks`) holds two such contexts.
CPU_CONTEXT_TOKENS = 8192
# Assumed for activations, CUDA graphs and fragmentation of a vLLM process, as in
# training/planning/serving.py, which needs torch.
OVERHEAD_BYTES = 1.5 * 2**30
MEMORY_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


def context_tokens(model: Path, gpu_bytes: float) -> int:
    """Return the context window of a model.

    On a GPU the window is that of the model, at most half of the memory for keys and values: the
    memory is estimated, and a second context must not interrupt the first. It is never below that
    of a CPU; vLLM refuses to start with a model for which even that is too much.

    Args:
        gpu_bytes: memory of the GPU that serves the model; 0 for a CPU.
    """
    tokens = CPU_CONTEXT_TOKENS
    if gpu_bytes:
        settings = VllmServerSettings.model_fields
        share = settings["gpu_memory_fraction"].default / settings["max_versions"].default
        weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
        free = share * gpu_bytes - weights - OVERHEAD_BYTES
        tokens = max(tokens, int(free / 2 / token_bytes(model)))
    return min(int(_config(model)["max_position_embeddings"]), tokens)


def reply_tokens(context: int) -> int:
    """Return the tokens of a context that are reserved for an answer without `max_tokens`."""
    return min(context // 4, MAX_REPLY_TOKENS)


def cache_gigabytes(model: Path, context: int) -> int:
    """Return the memory for keys and values of vLLM on a CPU: one context, at least a gigabyte."""
    return max(1, math.ceil(context * token_bytes(model) / 2**30))


def token_bytes(model: Path) -> int:
    """Return the bytes of keys and values of a token, 16 bits each, all layers counted as whole."""
    config = _config(model)
    heads = config.get("num_key_value_heads") or config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 2 * 2 * config["num_hidden_layers"] * heads * head_size


def gpu_bytes() -> float:
    """Return the memory of the first GPU, or 0 if nvidia-smi does not tell."""
    try:
        listed = subprocess.run(MEMORY_QUERY, capture_output=True, text=True, check=True)
        return float(listed.stdout.splitlines()[0]) * 2**20
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        return 0.0


def _config(model: Path) -> dict[str, int]:
    config: dict[str, int] = json.loads((model / "config.json").read_text())
    return config
