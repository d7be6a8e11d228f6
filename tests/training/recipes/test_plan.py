"""Command line of `python -m training plan`."""

import json
import re
from pathlib import Path

import pytest

from training.__main__ import main
from training.recipes.open_models.recipes import SHAPES


def plan(*words: str) -> int:
    return main(["plan", *words])


def test_plan_is_printed_with_its_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--recipe", "llama-3.1-8b-full") == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0] == "llama-3.1-8b-full on 8 x h100, 71.1 GiB of each usable"
    heads = [line.split() for line in lines if line.startswith("stage")]
    assert heads[0][:5] == ["stage", "copies", "shard", "tensor", "weights"]
    assert heads[1][:3] == ["stage", "steps", "s"]
    assert [
        line.split()[0] for line in lines if line.startswith(("sft", "reward_model", "ppo"))
    ] == 2 * [
        "sft",
        "reward_model",
        "ppo",
    ]
    assert "GPU hours" in printed
    assert "dollars" not in printed
    assert "No step was timed on a GPU" in printed
    assert "NVIDIA H100 data sheet" in printed


def test_json_has_the_same_figures_and_the_price(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        plan("--recipe", "qwen3-8b-grpo", "--gpus", "16", "--json", "--dollars-per-gpu-hour", "2.5")
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    (grpo,) = found["stages"]
    assert (found["gpus"], grpo["copies"], grpo["shard"], grpo["tensor"]) == (16, 4, 2, 2)
    assert grpo["peak_bytes"] == pytest.approx(sum(grpo["parts_bytes"].values()))
    assert grpo["seconds_per_step"] == pytest.approx(sum(grpo["spent_seconds"].values()))
    assert found["gpu_hours"] == pytest.approx(16 * grpo["hours"])
    assert found["dollars"] == pytest.approx(2.5 * found["gpu_hours"])
    assert any("No step was timed on a GPU" in line for line in found["assumptions"])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--recipe", "gpt"], ["recipe", "gpt", "qwen3-0.6b-sft-grpo"]),
        (["--recipe", "qwen3-8b-grpo", "--accelerator", "tpu"], ["accelerator", "tpu", "h100"]),
        (["--recipe", "qwen3-8b-grpo", "--gpus", "10"], ["grpo", "parallelism", "4", "10"]),
        (
            ["--recipe", "qwen3-8b-grpo", "--gpus", "1"],
            ["grpo", "parallelism", "4", "h100", "71.1"],
        ),
        (["--recipe", "qwen3-8b-grpo", "--gpus", "0"], ["grpo", "gpus", "0"]),
        (["--recipe", "qwen3-8b-grpo", "--shard", "0"], ["shard", "0"]),
        (
            ["--recipe", "qwen3-8b-grpo", "--tensor", "1"],
            ["grpo", "shard 2 x tensor 1", "h100", "71.1"],
        ),
        (["--recipe", "qwen3-8b-grpo", "--model", "nowhere"], ["nowhere"]),
        (["--recipe", "auto", "--model", "qwen3-7b"], ["model", "qwen3-7b", "qwen3-8b"]),
        (["--recipe", "qwen3-8b-grpo", "--accelerator", "cpu"], ["accelerator", "cpu", "auto"]),
    ],
)
def test_invalid_plan_is_an_error_with_its_reason(
    words: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert plan(*words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert [word for word in named if word not in line] == []


def test_plan_that_fits_nowhere_shows_the_missing_memory(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan("--recipe", "qwen3-8b-grpo", "--gpus", "1") == 1
    error = capsys.readouterr().err
    usable, least = sorted(map(float, re.findall(r"\d+\.\d+", error)))
    assert usable == 71.1
    assert least > usable


def test_small_model_is_shown_in_small_units(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert plan("--recipe", "qwen3-0.6b-sft-grpo", "--model", "models/nano", "--json") == 0
    first = json.loads(capsys.readouterr().out)["stages"][0]
    assert plan("--recipe", "qwen3-0.6b-sft-grpo", "--model", "models/nano") == 0
    printed = capsys.readouterr().out
    assert "Memory of one GPU at its peak, MiB" in printed
    assert f" {first['peak_bytes'] / 2**20:.1f} " in printed
    assert re.search(r"^In all \d\S* seconds, \d\S* GPU seconds$", printed, re.MULTILINE)


def test_model_and_layout_can_be_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text((SHAPES / "qwen3-0.6b.json").read_text())
    words = [
        "--recipe",
        "qwen3-8b-grpo",
        "--model",
        str(tmp_path),
        "--shard",
        "1",
        "--tensor",
        "1",
        "--gpus",
        "2",
    ]
    assert plan(*words, "--json") == 0
    (grpo,) = json.loads(capsys.readouterr().out)["stages"]
    assert grpo["copies"] == 2
    assert grpo["parts_bytes"]["weights"] == 4 * 596_049_920


@pytest.mark.parametrize("price", ["-1", "inf", "much"])
def test_price_must_not_be_negative(price: str) -> None:
    with pytest.raises(SystemExit):
        plan("--recipe", "qwen3-8b-grpo", "--dollars-per-gpu-hour", price)
