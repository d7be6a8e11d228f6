"""Command line and environment of vLLM's OpenAI server as a process on loopback."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

KEY_VARIABLE = "VLLM_API_KEY"
# Interpreter of vLLM's environment; set by commands next to a system that is served by vLLM.
PYTHON_VARIABLE = "TW_TRAINING_VLLM_PYTHON"
# The first step compiles the sampler, on a busy machine for minutes; after this time vLLM's engine
# ends (docs/decisions/vllm.md).
STEP_SECONDS = 1200


def default_python() -> Path:
    """Return the interpreter in TW_TRAINING_VLLM_PYTHON, else that of this process."""
    return Path(os.environ.get(PYTHON_VARIABLE) or sys.executable)


def vllm_command(
    python: Path, model: Path, name: str, port: int, arguments: Sequence[str] = ()
) -> tuple[str, ...]:
    """Return the command line of a server for one model.

    Args:
        python: interpreter of the environment in which vLLM is installed.
        name: name of the model in requests.
        arguments: additional arguments.
    """
    return (
        # The command `vllm` looks up a distribution of that name, which the CPU build is not.
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *(f"--model={model}", f"--served-model-name={name}"),
        *("--host=127.0.0.1", f"--port={port}"),
        *("--no-enable-log-requests", "--disable-uvicorn-access-log"),
        *arguments,
    )


def vllm_environment(python: Path, folder: Path, key: str, kv_gigabytes: float) -> dict[str, str]:
    """Return the environment variables of a server, added to those of the caller.

    Args:
        folder: folder of vLLM's caches.
        key: key of the paths under /v1; health checks and metrics need none.
        kv_gigabytes: memory for keys and values on a CPU.
    """
    # Compiled once for the environment; the default is a folder in /tmp. Volumes of a pod and
    # folders of other users can only be read.
    compiled = python.absolute().parents[1] / "inductor"
    with suppress(OSError):
        compiled.mkdir(exist_ok=True)
    if not os.access(compiled, os.W_OK):
        compiled = folder / "inductor"
    found = {
        KEY_VARIABLE: key,
        "VLLM_CPU_KVCACHE_SPACE": str(math.ceil(kv_gigabytes)),
        "VLLM_CACHE_ROOT": str(folder / "cache"),
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(STEP_SECONDS),
        # Threads bound to one processor would wait for other programs on it.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHINDUCTOR_CACHE_DIR": str(compiled),
        # The first start stores the bytecode of 4,000 modules; each would compile them again.
        "PYTHONDONTWRITEBYTECODE": "",
    }
    if python.absolute() != Path(sys.executable).absolute():
        # Images of training name their packages there, among them another torch.
        found["PYTHONPATH"] = ""
    return found
