"""Unsupported models are refused, and the error names the field or the tensor."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.__main__ import REFUSED, main
from services.predictor.graph.architecture import (
    AttentionKind,
    load_architecture,
    read_architecture,
)
from services.predictor.graph.conversion import convert, embedding_scale
from tests.services.predictor import checkpoints
from tests.support.errors import refused

FAMILIES = "llama, qwen2, qwen3, gemma3_text"


@pytest.fixture(scope="module")
def llama_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(checkpoints.llama(), tmp_path_factory.mktemp("llama"))


@pytest.fixture
def config(llama_directory: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads((llama_directory / "config.json").read_text())
    return parsed


@pytest.mark.parametrize(
    ("changes", "field", "reason", "limit"),
    [
        ({"model_type": "mixtral"}, "model_type", "UNSUPPORTED", FAMILIES),
        ({"model_type": None}, "model_type", "UNSUPPORTED", FAMILIES),
        ({"model_type": "gpt2"}, "model_type", "UNSUPPORTED", FAMILIES),
        ({"hidden_act": "relu"}, "hidden_act", "UNSUPPORTED", "silu, gelu_pytorch_tanh"),
        ({"hidden_size": "64"}, "hidden_size", "OUT_OF_RANGE", "at least 1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers", "OUT_OF_RANGE", "at least 1"),
        ({"num_key_value_heads": 3}, "num_key_value_heads", "MISMATCH", ""),
        ({"rms_norm_eps": None}, "rms_norm_eps", "MISSING", "above 0"),
        ({"max_position_embeddings": None}, "max_position_embeddings", "MISSING", "at least 1"),
        (
            {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
            "rope_parameters.rope_type",
            "UNSUPPORTED",
            "default, linear, llama3",
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            "factor",
            "MISSING",
            "above 0",
        ),
        (
            {"rope_parameters": None, "rope_scaling": {"type": "dynamic"}},
            "rope_scaling.rope_type",
            "UNSUPPORTED",
            "default, linear, llama3",
        ),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping", "UNSUPPORTED", ""),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping", "UNSUPPORTED", ""),
        ({"quantization_config": {"bits": 4}}, "quantization_config", "UNSUPPORTED", ""),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor", "UNSUPPORTED", "1"),
        (
            {"model_type": "gemma3_text", "layer_types": ["full_attention"]},
            "layer_types",
            "MISMATCH",
            "2 of full_attention, sliding_attention",
        ),
        (
            {"model_type": "gemma3_text", "layer_types": None, "sliding_window": None},
            "sliding_window",
            "MISSING",
            "at least 1",
        ),
    ],
)
def test_an_unsupported_config_is_refused_by_field(
    config: dict[str, Any], changes: dict[str, Any], field: str, reason: str, limit: str
) -> None:
    with refused(ModelRefusedError, field=field, reason=reason, limit=limit) as caught:
        read_architecture({**config, **changes})
    assert field in caught.value.text


def test_older_gemma_configs_yield_the_window_pattern_and_the_local_rope(
    config: dict[str, Any],
) -> None:
    old = {
        **config,
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "layer_types": None,
        "rope_parameters": None,
        "sliding_window": 16,
        "sliding_window_pattern": 3,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    }
    architecture = read_architecture(old)
    assert [kind is AttentionKind.FULL for kind in architecture.layers] == [
        False,
        False,
        True,
    ] * 2 + [False]
    assert architecture.ropes[AttentionKind.FULL].linear_factor == 8.0
    assert architecture.ropes[AttentionKind.FULL].theta == 1e6
    assert architecture.ropes[AttentionKind.SLIDING].linear_factor == 1.0
    assert architecture.ropes[AttentionKind.SLIDING].theta == 1e4


def test_gemmas_embedding_scale_is_rounded_to_the_checkpoints_type() -> None:
    assert embedding_scale(640, "bfloat16") == 25.25
    assert embedding_scale(640, "float32") == pytest.approx(25.298, abs=1e-3)
    assert embedding_scale(640, "float16") == np.float16(25.298221)
    assert embedding_scale(3072, "bfloat16") == 55.5


def test_a_missing_or_misshapen_tensor_is_named(llama_directory: Path, tmp_path: Path) -> None:
    for changes, named, reason in (
        ({"num_hidden_layers": 3}, "model.layers.2", "MISSING"),
        ({"vocab_size": 385}, "embed_tokens", "MISMATCH"),
    ):
        copy = tmp_path / named
        copy.mkdir()
        (copy / "model.safetensors").write_bytes(
            (llama_directory / "model.safetensors").read_bytes()
        )
        (copy / "config.json").write_bytes((llama_directory / "config.json").read_bytes())
        checkpoints.edit_config(copy, **changes)
        with refused(ModelRefusedError, reason=reason) as caught:
            convert(copy, tmp_path)
        assert named in caught.value.field


def test_a_truncated_file_is_refused(llama_directory: Path, tmp_path: Path) -> None:
    complete = (llama_directory / "model.safetensors").read_bytes()
    (tmp_path / "config.json").write_bytes((llama_directory / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(complete[: len(complete) // 2])
    with refused(ModelRefusedError, reason="DAMAGED") as caught:
        convert(tmp_path, tmp_path)
    assert caught.value.field.startswith("model.safetensors: ")
    (tmp_path / "model.safetensors").write_bytes(b"\x10" + bytes(7) + b"not json at all!")
    with refused(ModelRefusedError, field="model.safetensors", reason="MALFORMED"):
        convert(tmp_path, tmp_path)


def test_the_converter_process_reports_the_reason_of_a_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(str(tmp_path), str(tmp_path)) == REFUSED
    captured = capsys.readouterr()
    assert "config.json" in captured.err
    assert json.loads(captured.out) == {"field": "config.json", "reason": "MISSING", "limit": ""}
    with refused(ModelRefusedError, field="config.json", reason="MALFORMED"):
        (tmp_path / "config.json").write_text("{")
        load_architecture(tmp_path)
