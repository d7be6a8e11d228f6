"""vLLM's CPU build, for tests of the contract with vLLM on machines without a GPU.

The wheel requires `torch==2.13.0+cpu`, which package registries do not carry. The lock overrides
this requirement with the ordinary torch 2.13.0 (docs/decisions/vllm.md).
"""

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from infra.install.environment import fill_environment
from infra.machine.servers.errors import ServerError
from infra.machine.servers.installation import (
    LOCKS,
    Part,
    home,
    install_missing,
    require_installed,
)
from infra.machine.servers.prometheus import responds
from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST
from infra.run.supervision.secret_file import read_or_create

LOCK = LOCKS / "vllm.txt"
INSTALL_COMMAND = "python -m infra.machine.servers install vllm"
KEY_VARIABLE = "VLLM_API_KEY"
# The process interrupts answers on SIGTERM and then ends its engine process.
STOP_SECONDS = 60.0
STEP_SECONDS = 1200
COMPILER = "g++"


def part() -> Part:
    """Return the environment of vLLM as a folder of the cache."""
    # `--no-deps`: the lock is complete, and the requirement of torch is overridden.
    return Part(
        home("servers", "vllm", LOCK),
        "vLLM's CPU build with torch (3.2 GB to download, 4.5 GB on disk)",
        lambda folder: fill_environment(folder, LOCK, "--no-deps"),
    )


def install(say: Callable[[str], None]) -> Path:
    """Install vLLM if missing, and return its Python."""
    install_missing([part()], say)
    return find_installed()


def find_installed() -> Path:
    """Return the Python of the installed environment.

    Raises:
        ServerError: not installed; names the command for the installation. Or the machine has no
            compiler for the kernels of the first answer.
    """
    found = part()
    require_installed([found], INSTALL_COMMAND)
    if not shutil.which(COMPILER):
        raise ServerError(
            f"{COMPILER} is missing: vLLM compiles its sampler at the first answer. "
            f"Install the package {COMPILER}",
            field=COMPILER,
            reason="MISSING",
        )
    return found.home / "bin" / "python"


@dataclass(frozen=True)
class Vllm:
    """A server on loopback for one model, with the arguments of the chart.

    Args:
        folder: folder for the key and for caches.
        model: model directory.
        version: name of the model in requests.
        kv_gigabytes: memory for keys and values.
        arguments: additional arguments of `vllm serve`.
        environment: additional environment variables.
    """

    folder: Path
    port: int
    model: Path
    version: str
    kv_gigabytes: int = 1
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def key(self) -> str:
        """Return the key of the paths under /v1; health checks and metrics need none."""
        return read_or_create(self.folder / "key")

    def prepare(self, python: Path) -> tuple[Program, ...]:
        """Return the program; the model loads after its start."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # The command `vllm` looks up a distribution of that name and fails with this wheel.
        command = (
            *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
            *("--model", str(self.model), f"--served-model-name={self.version}"),
            *(f"--host={HOST}", f"--port={self.port}"),
            *("--no-enable-log-requests", "--disable-uvicorn-access-log"),
            # torch.compile takes minutes on a few processors.
            "--enforce-eager",
            *self.arguments,
        )
        environment = {
            KEY_VARIABLE: self.key,
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_gigabytes),
            "VLLM_CACHE_ROOT": str(self.folder / "cache"),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
            # The first step compiles the sampler, on a busy machine for minutes; after this time
            # the engine ends.
            "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(STEP_SECONDS),
            # Threads bound to one processor would wait for other programs on it.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # Compiled once for the environment; the default is a folder in /tmp.
            "TORCHINDUCTOR_CACHE_DIR": str(python.parents[1] / "inductor"),
            # The first start stores the bytecode of 4,000 modules; each would compile them again.
            "PYTHONDONTWRITEBYTECODE": "",
            **self.environment,
        }
        ready = partial(is_ready, self.url)
        return (
            Program(
                "vllm", command, environment, self.port, stop_seconds=STOP_SECONDS, ready=ready
            ),
        )


async def is_ready(url: str) -> bool:
    """Return True if /health responds with 200, which is after the model has loaded."""
    return await asyncio.to_thread(responds, f"{url}/health")
