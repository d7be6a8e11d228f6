"""Every stage learns the same with activation checkpointing, with all weights and adapters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.training.stages.die_in_every_stage import stages
from tests.training.stages.split_policies import write_data
from training.cluster.runner import run_stage
from training.model import activation_checkpointing

# One form of each stage; the other form is a long test.
NAMES = ["sft", "reward_model-lora", "ppo-lora", "grpo", "dpo-lora", "kto"]
OTHERS = ["sft-lora", "reward_model", "ppo", "grpo-lora", "dpo", "kto-lora"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("data")
    write_data(directory)
    return directory


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    found = {path: load_file(path) for path in sorted(directory.rglob("*.safetensors"))}
    return {
        f"{path.relative_to(directory)} {name}": t
        for path, held in found.items()
        for name, t in held.items()
    }


@pytest.mark.parametrize(
    "name", [*NAMES, *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)]
)
def test_activation_checkpointing_learns_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    blocks = 0
    checkpoint = activation_checkpointing.checkpoint

    def counted(*inputs: Any, **settings: Any) -> Any:
        nonlocal blocks
        blocks += 1
        return checkpoint(*inputs, **settings)

    monkeypatch.setattr(activation_checkpointing, "checkpoint", counted)
    found, again = [], []
    for wanted in (False, True):
        stage = stages(data, tmp_path / str(wanted))[name]
        run_stage(
            replace(stage, config=replace(stage.config, checkpoint_activations=wanted)),
            tmp_path / str(wanted) / "runs",
        )
        found.append(weights_of(stage.config.output_directory))
        again.append(blocks > 0)
    assert again == [False, True]
    assert found[0].keys() == found[1].keys()
    # A rollout of several responses per prompt then computes full rows, with other rounding.
    apart = 1e-6 if name.startswith("grpo") else 0.0
    assert all(float((found[0][key] - found[1][key]).abs().max()) <= apart for key in found[0])
