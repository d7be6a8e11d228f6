"""vLLM for a model directory, as a child of this process."""

from __future__ import annotations

import math
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from training.serving.child import child
from training.serving.endpoint import Endpoint

READY_SECONDS = 1800.0
# The first step compiles the sampler, on a busy machine for minutes; after this time vLLM's engine
# ends (docs/decisions/vllm.md).
STEP_SECONDS = 1200
# Sizes that vLLM has kernels for.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class VllmOptions:
    """Options of a started vLLM.

    Attributes:
        python: interpreter of the environment in which vLLM is installed.
        model: model directory.
        name: name of the model in requests.
        dtype: float32, bfloat16 or float16.
        window_tokens: limit of prompt and answer together.
        concurrency: answers at once.
        kv_gigabytes: memory for keys and values on a CPU.
        lora_rank: highest rank of an adapter; None: no adapters.
        adapters: directories of adapters by name, loaded at the start.
        arguments: additional arguments.
    """

    python: Path
    model: Path
    name: str
    dtype: str
    window_tokens: int
    concurrency: int
    kv_gigabytes: float
    lora_rank: int | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    arguments: Sequence[str] = ()

    def command(self, port: int) -> list[str]:
        """Return the command line of the server."""
        # The command `vllm` looks up a distribution of that name, which the CPU build is not.
        command = [str(self.python), "-m", "vllm.entrypoints.openai.api_server"]
        command += [f"--model={self.model}", f"--served-model-name={self.name}"]
        command += ["--host=127.0.0.1", f"--port={port}", f"--dtype={self.dtype}"]
        command += [f"--max-model-len={self.window_tokens}", f"--max-num-seqs={self.concurrency}"]
        # Without this, defaults of a request are those of the model's generation_config.json.
        command += ["--generation-config=vllm"]
        command += ["--no-enable-log-requests", "--disable-uvicorn-access-log"]
        if self.lora_rank is not None:
            rank = next(rank for rank in LORA_RANKS if rank >= self.lora_rank)
            # Two: the version that answers and the next one.
            command += ["--enable-lora", f"--max-lora-rank={rank}", "--max-loras=2"]
        if self.adapters:
            command += [
                "--lora-modules",
                *(f"{name}={path}" for name, path in self.adapters.items()),
            ]
        return [*command, *self.arguments]

    def environment(self, folder: Path, key: str) -> dict[str, str]:
        """Return the environment variables of the server, added to those of the trainer.

        Args:
            folder: folder for caches of this server.
        """
        # Compiled once for the environment; the default is a folder in /tmp. Volumes of a pod and
        # folders of other users can only be read.
        compiled = self.python.absolute().parents[1] / "inductor"
        with suppress(OSError):
            compiled.mkdir(exist_ok=True)
        if not os.access(compiled, os.W_OK):
            compiled = folder / "inductor"
        found = {
            "VLLM_API_KEY": key,
            "VLLM_CPU_KVCACHE_SPACE": str(math.ceil(self.kv_gigabytes)),
            "VLLM_CACHE_ROOT": str(folder / "cache"),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(STEP_SECONDS),
            # Threads bound to one processor would wait for the trainer on it.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCHINDUCTOR_CACHE_DIR": str(compiled),
            # /collective_rpc, /pause and others; only this machine reaches the port.
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }
        if self.python.absolute() != Path(sys.executable).absolute():
            # Images of training name their packages there, among them another torch.
            found["PYTHONPATH"] = ""
        return found


@contextmanager
def serving_vllm(options: VllmOptions, key: str = "") -> Iterator[Endpoint]:
    """Start vLLM on loopback with the paths for new weights, and stop it at the end of the block.

    Args:
        key: key of the server; "" draws one.

    Raises:
        EndpointError: the server does not start; the text has the last line of its log.
    """
    print(f"starting vLLM for {options.name}", file=sys.stderr, flush=True)
    key = key or secrets.token_hex(16)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="thumbwheel-vllm-") as folder:
        environment = options.environment(Path(folder), key)
        url = f"http://127.0.0.1:{port}"
        with child(options.command(port), environment, Path(folder, "log")) as server:
            server.wait_until_ready(lambda: url, "/health", READY_SECONDS, lambda: "")
            with Endpoint(url, options.name, key) as endpoint:
                yield endpoint
