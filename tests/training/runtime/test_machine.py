"""Threads, number type and device of a stage."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.errors import refused
from tests.training.toys import ProgressList, sft_rows, toy_model, write_lines
from training.artifacts.manifest import verify_manifest
from training.errors import ConfigError
from training.model.reward import ScalarHead
from training.optim.optimizers import OptimizerConfig
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.machine import configure_device, sampling_threads
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import sft
from training.stages.sft import SftConfig


def test_sampling_uses_a_quarter_of_the_threads_temporarily() -> None:
    configure_device(Machine(threads=8))
    with sampling_threads(Machine()):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 8
    with sampling_threads(Machine(sampling_threads=3)):
        assert torch.get_num_threads() == 3
    configure_device(Machine(threads=1))
    with sampling_threads(Machine()):
        assert torch.get_num_threads() == 1


def test_scores_and_logits_stay_in_full_precision_under_autocast() -> None:
    head = ScalarHead(8, seed=1)
    hidden = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    with configure_device(Machine(threads=1, dtype="bfloat16"))():
        assert (hidden @ hidden.T).dtype == torch.bfloat16
        inside = head(hidden)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, head(hidden))


def test_an_unknown_number_type_is_refused() -> None:
    with refused(ConfigError, field="dtype", reason="UNKNOWN", limit="float32, bfloat16, auto"):
        configure_device(Machine(threads=1, dtype="int8"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "UNKNOWN") for name in ("tpu", "cuda:", "cuda:x", "cuda:-1", "auto:0", "")),
        ("mps", "UNSUPPORTED"),
        ("gpu", "UNSUPPORTED"),
    ],
)
def test_a_name_of_no_device_is_refused_without_a_look_at_the_machine(
    name: str, reason: str
) -> None:
    with refused(ConfigError, field="device", reason=reason, limit="auto, cpu, cuda, xpu"):
        Machine(device=name)


@pytest.mark.skipif(
    torch.accelerator.is_available(), reason="is about a machine without an accelerator"
)
def test_a_missing_device_is_refused_and_auto_selects_the_cpu() -> None:
    for name in ("cuda", "cuda:1", "xpu"):
        with refused(ConfigError, field="device", reason="MISSING", limit="cpu"):
            configure_device(Machine(threads=1, device=name))
    for name in ("auto", "cpu"):
        configure_device(Machine(threads=1, device=name))
        assert torch._C._len_torch_function_stack() == 0, (
            "a default device that is set costs something at every call"
        )


def test_bfloat16_training_learns_at_least_half_of_full_precision(tmp_path: Path) -> None:
    config = SftConfig(
        model_directory=toy_model(tmp_path / "first"),
        data_path=write_lines(tmp_path / "sft.jsonl", sft_rows(48)),
        output_directory=tmp_path / "full",
        lineage=Lineage("full"),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        held_out_fraction=0.2,
        machine=Machine(threads=1),
    )
    narrow = replace(
        config, output_directory=tmp_path / "narrow", machine=Machine(threads=1, dtype="bfloat16")
    )
    losses, falls = [], []
    for case in (config, narrow):
        sft.run(
            case,
            RunContext(
                DirectoryCheckpoints(tmp_path / f"run-{case.machine.dtype}"), ProgressList()
            ),
        )
        report = verify_manifest(case.output_directory).report
        losses.append(report["held_out_loss"])
        falls.append(report["held_out_loss_before"] - report["held_out_loss"])
    assert falls[0] > 0
    assert falls[1] > falls[0] / 2
    assert losses[0] != losses[1]
