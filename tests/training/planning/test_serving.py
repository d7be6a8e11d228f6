"""Memory of a model server: weights, and keys and values."""

import json
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.__main__ import main
from training.errors import ConfigError
from training.planning.accelerators import GIB
from training.planning.serving import OVERHEAD_GIB, plan_serving
from training.planning.step import sizes_of
from training.recipes.open_models.recipes import shape

FIELD = "gpu-memory-utilization"


def test_weights_and_cache_of_a_known_model() -> None:
    """Qwen3-4B: 36 layers, 8 heads of keys, 128 numbers each, in two bytes."""
    plan = plan_serving(shape("qwen3-4b"), 24, 0.45, 8192)
    assert plan.token_bytes == 36 * 2 * 8 * 128 * 2
    assert plan.weight_bytes == 2 * sizes_of(shape("qwen3-4b")).total
    free = (24 * 0.45 - OVERHEAD_GIB) * GIB - plan.weight_bytes
    assert plan.cache_tokens == int(free / plan.token_bytes)


def test_model_that_is_too_large_is_refused_with_what_would_fit() -> None:
    with refused(ConfigError, field=FIELD, reason="TOO_LARGE") as caught:
        plan_serving(shape("qwen3-8b"), 24, 0.45, 8192)
    least = float(caught.value.limit.removeprefix("at least "))
    plan_serving(shape("qwen3-8b"), 24, least + 0.01, 8192)
    with refused(ConfigError, field=FIELD, reason="TOO_LARGE"):
        plan_serving(shape("qwen3-8b"), 24, least - 0.01, 8192)


def test_several_gpus_divide_the_model_and_fewer_bits_the_weights() -> None:
    whole = plan_serving(shape("qwen3-8b"), 80, 0.9, 8192)
    halves = plan_serving(shape("qwen3-8b"), 80, 0.9, 8192, gpus=2)
    assert halves.weight_bytes == whole.weight_bytes / 2
    assert halves.token_bytes == whole.token_bytes / 2
    quarter = plan_serving(shape("qwen3-8b"), 80, 0.9, 8192, weight_bits=4)
    assert quarter.weight_bytes == whole.weight_bytes / 4
    with refused(ConfigError, field="tensor-parallel-size", reason="MISMATCH"):
        plan_serving(shape("qwen3-8b"), 80, 0.9, 8192, gpus=3)


def test_adapters_of_a_shared_base_take_room_for_their_highest_rank() -> None:
    model = shape("qwen3-8b")
    without = plan_serving(model, 80, 0.9, 8192)
    two = plan_serving(model, 80, 0.9, 8192, adapters=2, adapter_rank=128)
    # Inputs and outputs of the seven projections of a layer.
    sizes = 2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 12288)
    assert two.adapter_bytes == 2 * 2 * 128 * 36 * sizes
    lost = (without.cache_tokens - two.cache_tokens) * two.token_bytes
    assert abs(lost - two.adapter_bytes) <= two.token_bytes
    assert "adapters 1.3" in two.text()
    assert "adapters" not in without.text()


def test_sliding_layers_hold_their_window_only() -> None:
    long = plan_serving(shape("gemma-3-4b"), 24, 0.9, 32_768)
    short = plan_serving(shape("gemma-3-4b"), 24, 0.9, 1024)
    assert long.token_bytes < short.token_bytes / 3


def test_command_prints_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dict(shape("qwen3-4b").raw)))
    assert main(["memory", str(tmp_path), "--gpu-gib", "24", "--context", "8192"]) == 0
    assert "weights 7.5" in capsys.readouterr().out
