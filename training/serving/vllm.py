"""vLLM for a model directory, as a child of this process."""

from __future__ import annotations

import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from training.serving.child import child
from training.serving.endpoint import Endpoint
from training.serving.vllm_command import vllm_command, vllm_environment

READY_SECONDS = 1800.0
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
        gpus: numbers of the machine's GPUs, which divide the model; empty: those of this process.
        gpu_memory: part of the memory of each GPU that the server may take; None: vLLM's default.
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
    gpus: Sequence[int] = ()
    gpu_memory: float | None = None
    lora_rank: int | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)
    arguments: Sequence[str] = ()

    def command(self, port: int) -> tuple[str, ...]:
        """Return the command line of the server."""
        arguments = [f"--dtype={self.dtype}"]
        arguments += [
            f"--max-model-len={self.window_tokens}",
            f"--max-num-seqs={self.concurrency}",
        ]
        # Without this, defaults of a request are those of the model's generation_config.json.
        arguments += ["--generation-config=vllm"]
        if self.lora_rank is not None:
            rank = next(rank for rank in LORA_RANKS if rank >= self.lora_rank)
            # Two: the version that answers and the next one.
            arguments += ["--enable-lora", f"--max-lora-rank={rank}", "--max-loras=2"]
        if len(self.gpus) > 1:
            arguments.append(f"--tensor-parallel-size={len(self.gpus)}")
        if self.gpu_memory is not None:
            arguments.append(f"--gpu-memory-utilization={self.gpu_memory:g}")
        if self.adapters:
            arguments += [
                "--lora-modules",
                *(f"{name}={path}" for name, path in self.adapters.items()),
            ]
        return vllm_command(self.python, self.model, self.name, port, (*arguments, *self.arguments))

    def environment(self, folder: Path, key: str) -> dict[str, str]:
        """Return the environment variables of the server, added to those of the trainer.

        Args:
            folder: folder for caches of this server.
        """
        # A worker of Ray sees its own GPU only.
        gpus = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, self.gpus))} if self.gpus else {}
        return {
            **vllm_environment(self.python, folder, key, self.kv_gigabytes),
            **gpus,
            # /collective_rpc, /pause and others; only this machine reaches the port.
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        }


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
