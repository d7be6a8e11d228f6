"""Broken and untrusted checkpoints are refused with the file name; pickles are never read."""

import json
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.errors import refused
from tests.training.model.oracle_models import oracle
from training.model.checkpoint import load_decoder
from training.model.fields import ModelConfigError
from training.model.lora import LoraConfig, add_adapter, load_adapter, save_adapter
from training.model.tensor_files import CheckpointError

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    oracle("llama", tmp_path)
    return tmp_path


def safetensors_file(header: object, data: bytes = b"") -> bytes:
    written = json.dumps(header).encode()
    return struct.pack("<Q", len(written)) + written + data


def one(**entry: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}


OVERLAPPING = safetensors_file({"a": one(), "b": one(data_offsets=[4, 12])}, b"\0" * 12)
BROKEN = {
    "nothing in it": (b"", "model.safetensors", "DAMAGED"),
    "a pickle": (b"\x80\x04\x95\x0f" + b"\0" * 60, "model.safetensors", "UNSUPPORTED"),
    "a zip of torch": (b"PK\x03\x04" + b"\0" * 60, "model.safetensors", "UNSUPPORTED"),
    "a giant header": (struct.pack("<Q", 1 << 60) + b"{}", "model.safetensors", "DAMAGED"),
    "a header beyond the file": (
        struct.pack("<Q", 640) + b'{"a": ',
        "model.safetensors",
        "DAMAGED",
    ),
    "a deep header": (struct.pack("<Q", 100_000) + b"[" * 100_000, "model.safetensors", "DAMAGED"),
    "overlapping tensors": (OVERLAPPING, "model.safetensors", "DAMAGED"),
    "data cut short": (safetensors_file({"a": one()}, b"\0" * 4), "model.safetensors", "DAMAGED"),
    "data left over": (safetensors_file({"a": one()}, b"\0" * 12), "model.safetensors", "DAMAGED"),
    "integers": (
        safetensors_file({"a": one(dtype="I64", shape=[1])}, b"\0" * 8),
        "a",
        "UNSUPPORTED",
    ),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_unsafe_and_incomplete_files_are_refused(kind: str, directory: Path) -> None:
    content, field, reason = BROKEN[kind]
    (directory / "model.safetensors").write_bytes(content)
    with refused(CheckpointError, field=field, reason=reason) as caught:
        load_decoder(directory)
    assert "model.safetensors" in caught.value.text


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "weights.pkl", "consolidated.00.pth"]
)
def test_directory_of_pickles_is_refused_with_a_remedy(name: str, directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / name)
    with refused(
        CheckpointError, field=name, reason="UNSUPPORTED", limit="model.safetensors"
    ) as caught:
        load_decoder(directory)
    assert "save_pretrained" in caught.value.text


def test_directory_without_weights_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with refused(CheckpointError, field="model.safetensors", reason="MISSING") as caught:
        load_decoder(directory)
    assert "model.safetensors.index.json" in caught.value.text


def with_index(directory: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / "model.safetensors.index.json").write_text(text)
    return directory


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        ("{", "model.safetensors.index.json", "MALFORMED"),
        ([], "model.safetensors.index.json", "WRONG_TYPE"),
        ({}, "weight_map", "EMPTY"),
        ({"weight_map": {"a": 7}}, "weight_map", "WRONG_TYPE"),
        ({"weight_map": {"a": "../model.safetensors"}}, "../model.safetensors", "UNSUPPORTED"),
        ({"weight_map": {"a": "/etc/passwd"}}, "/etc/passwd", "UNSUPPORTED"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "pytorch_model.bin", "UNSUPPORTED"),
        ({"weight_map": {"a": "model-2.safetensors"}}, "model-2.safetensors", "MISSING"),
    ],
)
def test_invalid_weight_index_is_refused(
    content: object, field: str, reason: str, directory: Path
) -> None:
    with refused(CheckpointError, field=field, reason=reason) as caught:
        load_decoder(with_index(directory, content))
    assert "model.safetensors.index.json" in caught.value.text


def test_tensor_in_two_files_is_refused(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, directory / "more.safetensors")
    index = {"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}
    with refused(CheckpointError, field="model.norm.weight", reason="DUPLICATE") as caught:
        load_decoder(with_index(directory, index))
    assert "more.safetensors" in caught.value.text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "MISSING"),
        (b"{", "MALFORMED"),
        (b"[]", "WRONG_TYPE"),
        (b"\xff\xfe", "MALFORMED"),
        (b"[" * 100_000, "MALFORMED"),
    ],
)
def test_missing_or_malformed_config_json_is_refused(
    content: bytes | None, reason: str, directory: Path
) -> None:
    (directory / "config.json").unlink()
    if content is not None:
        (directory / "config.json").write_bytes(content)
    with refused(ModelConfigError, field="config.json", reason=reason):
        load_decoder(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_weights_are_refused_by_name(value: float, directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, directory / "model.safetensors")
    with refused(CheckpointError, field="model.layers.1.mlp.up_proj.weight", reason="NOT_FINITE"):
        load_decoder(directory)


def test_missing_and_misshapen_tensors_are_named_with_their_shapes(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, directory / "model.safetensors")
    with refused(
        CheckpointError, field="model.norm.weight", reason="MISMATCH", limit="[32]"
    ) as caught:
        load_decoder(directory)
    assert re.findall(r"\d+", caught.value.text) == ["1", "32"], (
        "one tensor does not fit, and there is none"
    )
    save_file({**tensors, "model.norm.weight": norm[:31].clone()}, directory / "model.safetensors")
    with refused(
        CheckpointError, field="model.norm.weight", reason="MISMATCH", limit="[32]"
    ) as caught:
        load_decoder(directory)
    assert "[31]" in caught.value.text


def test_mismatch_in_gpt2_is_reported_under_the_name_in_the_file(tmp_path: Path) -> None:
    oracle("gpt2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.0.attn.c_attn.weight"] = tensors[
        "transformer.h.0.attn.c_attn.weight"
    ].T.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    name = "transformer.h.0.attn.c_attn.weight"
    with refused(CheckpointError, field=name, reason="MISMATCH", limit="[32, 96]") as caught:
        load_decoder(tmp_path)
    assert "[96, 32]" in caught.value.text


def test_pickled_adapter_is_refused(directory: Path) -> None:
    decoder = load_decoder(directory)
    config = LoraConfig(rank=2)
    add_adapter(decoder, "policy", config, seed=1)
    save_adapter(decoder, "policy", config, directory / "adapter", parent="x")
    (directory / "adapter" / "adapter_model.safetensors").write_bytes(
        b"\x80\x04\x95\x0f" + b"\0" * 60
    )
    with refused(CheckpointError, field="adapter_model.safetensors", reason="UNSUPPORTED"):
        load_adapter(decoder, "again", directory / "adapter")
