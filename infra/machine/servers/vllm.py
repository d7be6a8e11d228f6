"""vLLM's CPU build, for tests of the contract with vLLM on machines without a GPU.

The wheel requires `torch==2.13.0+cpu`, which package registries do not carry. The lock overrides
this requirement with the ordinary torch 2.13.0 (docs/decisions/vllm.md).
"""

import asyncio
import os
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
from training.serving.vllm_command import vllm_command, vllm_environment

# Python of an installed vLLM, and the name of a build in BUILDS that is used otherwise.
PYTHON_VARIABLE, BUILD_VARIABLE = "THUMBWHEEL_VLLM_PYTHON", "THUMBWHEEL_VLLM_BUILD"
# The process interrupts answers on SIGTERM and then ends its engine process.
STOP_SECONDS = 60.0
COMPILER = "g++"
# Exists while NVIDIA's driver is loaded.
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Build:
    """A build of vLLM with an environment of its own.

    Args:
        name: argument of the installation, and the name of the folder in the cache.
        about: description with the size.
    """

    name: str
    lock: Path
    about: str

    @property
    def install_command(self) -> str:
        return f"python -m infra.machine.servers install {self.name}"


CPU = Build(
    "vllm",
    LOCKS / "vllm.txt",
    "vLLM's CPU build with torch (3.2 GB to download, 4.5 GB on disk)",
)
GPU = Build("vllm-gpu", LOCKS / "vllm_gpu.txt", "vLLM's CUDA build with torch")
BUILDS = {build.name: build for build in (CPU, GPU)}


def chosen_build() -> Build:
    """Return the build of THUMBWHEEL_VLLM_BUILD, by default that for CPUs.

    Raises:
        ServerError: the name is unknown.
    """
    name = os.environ.get(BUILD_VARIABLE) or CPU.name
    if name not in BUILDS:
        raise ServerError(
            f"{BUILD_VARIABLE}: {name!r} is not one of {', '.join(BUILDS)}",
            field=BUILD_VARIABLE,
            reason="UNKNOWN",
            limit=", ".join(BUILDS),
        )
    return BUILDS[name]


def part(build: Build = CPU) -> Part:
    """Return the environment of a build as a folder of the cache."""
    # `--no-deps`: the lock is complete, and the CPU build's requirement of torch is overridden.
    return Part(
        home("servers", build.name, build.lock),
        build.about,
        lambda folder: fill_environment(folder, build.lock, "--no-deps"),
    )


def install(say: Callable[[str], None], build: Build = CPU) -> Path:
    """Install a build if missing, and return its Python."""
    install_missing([part(build)], say)
    return _with_compiler(part(build).home / "bin" / "python")


def serving_build() -> Build:
    """Return the build that serves users: the chosen one, by default that of this machine.

    Raises:
        ServerError: the name in THUMBWHEEL_VLLM_BUILD is unknown.
    """
    if not os.environ.get(BUILD_VARIABLE) and NVIDIA_DRIVER.exists():
        return GPU
    return chosen_build()


def uses_gpu() -> bool:
    """Return True if the vLLM that serves users computes on a GPU of this machine."""
    given = bool(os.environ.get(PYTHON_VARIABLE))
    return NVIDIA_DRIVER.exists() and (given or serving_build() == GPU)


def find_installed(build: Build | None = None) -> Path:
    """Return the Python of THUMBWHEEL_VLLM_PYTHON, otherwise of an installed build.

    Args:
        build: None for the chosen build.

    Raises:
        ServerError: not installed; names the command for the installation. Or the machine has no
            compiler for the kernels of the first answer.
    """
    if given := os.environ.get(PYTHON_VARIABLE):
        if not Path(given).is_file():
            raise ServerError(
                f"{PYTHON_VARIABLE}: {given} does not exist",
                field=PYTHON_VARIABLE,
                reason="MISSING",
            )
        return _with_compiler(Path(given))
    build = build or chosen_build()
    require_installed([part(build)], build.install_command)
    return _with_compiler(part(build).home / "bin" / "python")


def _with_compiler(python: Path) -> Path:
    if not shutil.which(COMPILER):
        raise ServerError(
            f"{COMPILER} is missing: vLLM compiles its sampler at the first answer. "
            f"Install the package {COMPILER}",
            field=COMPILER,
            reason="MISSING",
        )
    return python


@dataclass(frozen=True)
class Vllm:
    """A server on loopback for one model, with the arguments of the chart.

    Args:
        folder: folder for the key and for caches.
        model: model directory.
        version: name of the model in requests.
        kv_gigabytes: memory for keys and values on a CPU.
        arguments: additional arguments of `vllm serve`.
        environment: additional environment variables.
        eager: do not compile the model, which takes minutes on a few processors.
    """

    folder: Path
    port: int
    model: Path
    version: str
    kv_gigabytes: float = 1
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    eager: bool = True

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
        arguments = (*(("--enforce-eager",) if self.eager else ()), *self.arguments)
        command = vllm_command(python, self.model, self.version, self.port, arguments)
        environment = {
            **vllm_environment(python, self.folder, self.key, self.kv_gigabytes),
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
