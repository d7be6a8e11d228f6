"""Environment of a started vLLM: its packages and caches."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

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
