"""Command and environment of a started vLLM, and the settings that lead to them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.errors import ConfigError
from training.serving.rollout_server import RolloutServer, ServedType, ServerEngine
from training.serving.vllm import VllmOptions

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"


@pytest.fixture
def options(tmp_path: Path) -> VllmOptions:
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    return VllmOptions(python, tmp_path / "model", "v1", "float32", 256, 4, 1.0)


def test_server_imports_no_packages_of_the_trainer(options: VllmOptions, tmp_path: Path) -> None:
    """Images of training set PYTHONPATH to their packages, which contain another torch."""
    assert options.environment(tmp_path, "key")["PYTHONPATH"] == ""
    own = replace(options, python=Path(sys.executable))
    assert "PYTHONPATH" not in own.environment(tmp_path, "key")


def test_compiled_functions_are_kept_only_beside_an_environment_that_can_be_written(
    options: VllmOptions, tmp_path: Path
) -> None:
    kept = tmp_path / "vllm" / "inductor"
    assert options.environment(tmp_path, "key")[INDUCTOR] == str(kept)
    assert kept.is_dir()
    # As for a volume that is mounted read-only; root may write to folders of any mode.
    read_only = Path("/proc/self/bin/python")
    of_volume = replace(options, python=read_only).environment(tmp_path, "key")
    assert of_volume[INDUCTOR] == str(tmp_path / "inductor")


def test_memory_and_gpus_are_passed_to_the_server(options: VllmOptions, tmp_path: Path) -> None:
    asked = replace(options, gpus=(2, 3), gpu_memory=0.25)
    assert asked.environment(tmp_path, "key")["CUDA_VISIBLE_DEVICES"] == "2,3"
    command = asked.command(8000)
    assert {"--tensor-parallel-size=2", "--gpu-memory-utilization=0.25"} <= set(command)
    assert "CUDA_VISIBLE_DEVICES" not in options.environment(tmp_path, "key")
    plain = " ".join(options.command(8000))
    assert "tensor-parallel" not in plain
    assert "utilization" not in plain


def test_gpus_and_memory_belong_to_a_started_vllm() -> None:
    with refused(ConfigError, field="gpu_memory", reason="OUT_OF_RANGE"):
        RolloutServer(gpu_memory=1.0)
    with refused(ConfigError, field="gpus", reason="CONFLICT"):
        RolloutServer(gpus=(0,), address="http://127.0.0.1:8000")
    with refused(ConfigError, field="gpu_memory", reason="CONFLICT"):
        RolloutServer(ServerEngine.PREDICTOR, ServedType.FLOAT32, gpu_memory=0.5)


def test_workers_share_the_gpus_below_their_number() -> None:
    assert RolloutServer().shared_gpus(workers=4) == 1
    assert RolloutServer(gpus=(2, 3, 4, 5)).shared_gpus(workers=4) == 2
    assert RolloutServer(gpus=(4, 5)).shared_gpus(workers=4) == 0
    assert RolloutServer(address="http://127.0.0.1:8000").shared_gpus(workers=4) == 0
