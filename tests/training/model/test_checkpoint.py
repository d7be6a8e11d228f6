"""Broken and foreign checkpoints: each is refused by a CheckpointError that names the file, and no pickle is ever read."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.model.shapes import oracle
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
    "nothing in it": (b"", "no whole safetensors file"),
    "a pickle": (b"\x80\x04\x95\x0f" + b"\0" * 60, "a pickle under another name"),
    "a zip of torch": (b"PK\x03\x04" + b"\0" * 60, "a pickle under another name"),
    "a giant header": (struct.pack("<Q", 1 << 60) + b"{}", "no whole safetensors file"),
    "a header beyond the file": (struct.pack("<Q", 640) + b'{"a": ', "no whole safetensors file"),
    "a deep header": (struct.pack("<Q", 100_000) + b"[" * 100_000, "no whole safetensors file"),
    "overlapping tensors": (OVERLAPPING, "no whole safetensors file"),
    "data cut short": (safetensors_file({"a": one()}, b"\0" * 4), "no whole safetensors file"),
    "data left over": (safetensors_file({"a": one()}, b"\0" * 12), "no whole safetensors file"),
    "integers": (
        safetensors_file({"a": one(dtype="I64", shape=[1])}, b"\0" * 8),
        "a has type I64; read are F32, BF16, F16",
    ),
}


@pytest.mark.parametrize("kind", sorted(BROKEN))
def test_a_file_that_is_not_safe_or_not_whole_is_refused_by_name(kind: str, directory: Path) -> None:
    content, reason = BROKEN[kind]
    (directory / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^model\.safetensors: .*{reason}"):
        load_decoder(directory)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl", "consolidated.00.pth"])
def test_a_directory_of_pickles_is_refused_with_the_way_out(name: str, directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / name)
    with pytest.raises(CheckpointError, match=rf"only {name}\. Reading a pickle runs.*save_pretrained"):
        load_decoder(directory)


def test_a_directory_without_weights_is_refused(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no model\.safetensors, and no model\.safetensors\.index\.json"):
        load_decoder(directory)


def with_index(directory: Path, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    (directory / "model.safetensors.index.json").write_text(text)
    return directory


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "is no JSON"),
        ([], "is not a JSON object"),
        ({}, "weight_map does not name"),
        ({"weight_map": {"a": 7}}, "weight_map does not name"),
        (
            {"weight_map": {"a": "../model.safetensors"}},
            r"'\.\./model\.safetensors' is not the name of a safetensors file",
        ),
        ({"weight_map": {"a": "/etc/passwd"}}, "'/etc/passwd' is not the name"),
        ({"weight_map": {"a": "pytorch_model.bin"}}, "'pytorch_model.bin' is not the name"),
        ({"weight_map": {"a": "model-2.safetensors"}}, r"names model-2\.safetensors, which is missing"),
    ],
)
def test_an_index_that_leads_astray_is_refused(content: object, named: str, directory: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"^model\.safetensors\.index\.json: .*{named}"):
        load_decoder(with_index(directory, content))


def test_a_tensor_in_two_files_is_refused(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, directory / "more.safetensors")
    index = {"weight_map": {"a": "model.safetensors", "b": "more.safetensors"}}
    with pytest.raises(CheckpointError, match=r"more\.safetensors: model\.norm\.weight is there twice"):
        load_decoder(with_index(directory, index))


@pytest.mark.parametrize(
    ("content", "named"),
    [(None, r"config\.json: is not in"), (b"{", "is no JSON"), (b"[]", "is not a JSON object"), (b"\xff\xfe", "is no JSON"),
     (b"[" * 100_000, "is no JSON")],
)  # fmt: skip
def test_a_config_json_that_is_none_is_refused(content: bytes | None, named: str, directory: Path) -> None:
    (directory / "config.json").unlink()
    if content is not None:
        (directory / "config.json").write_bytes(content)
    with pytest.raises(ModelConfigError, match=named):
        load_decoder(directory)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float, directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight is not finite"):
        load_decoder(directory)


def test_a_missing_and_an_unknown_tensor_are_named_with_their_shapes(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors .*model\.norm\.weight: nothing, expected \[32\]"):
        load_decoder(directory)
    save_file({**tensors, "model.norm.weight": norm[:31].clone()}, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: \[31\], expected \[32\]"):
        load_decoder(directory)


def test_gpt2_names_the_tensor_as_its_file_does(tmp_path: Path) -> None:
    oracle("gpt2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.0.attn.c_attn.weight"] = tensors["transformer.h.0.attn.c_attn.weight"].T.contiguous()
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"h\.0\.attn\.c_attn\.weight: \[96, 32\], expected \[32, 96\]"):
        load_decoder(tmp_path)


def test_an_adapter_that_is_a_pickle_is_refused(directory: Path) -> None:
    decoder = load_decoder(directory)
    config = LoraConfig(rank=2)
    add_adapter(decoder, "policy", config, seed=1)
    save_adapter(decoder, "policy", config, directory / "adapter", parent="x")
    (directory / "adapter" / "adapter_model.safetensors").write_bytes(b"\x80\x04\x95\x0f" + b"\0" * 60)
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: is a pickle"):
        load_adapter(decoder, "again", directory / "adapter")
