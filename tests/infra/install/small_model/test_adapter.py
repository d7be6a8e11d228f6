"""Merging with numpy against the trainer's LoRA forward pass, and safetensors against torch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.install.small_model.adapter import CONFIG, check_targets, open_adapter
from infra.install.small_model.errors import ModelError
from infra.install.small_model.tensors import (
    from_bfloat16,
    open_tensors,
    to_bfloat16,
    write_bfloat16,
)
from tests.support.errors import refused
from training.model.checkpoint import load_decoder, save_decoder
from training.model.config import llama_json, parse_config
from training.model.lora import (
    LoraConfig,
    active_adapter,
    adapter_parameters,
    add_adapter,
    save_adapter,
)
from training.model.transformer import Decoder, initialise


def trained_adapter(folder: Path) -> tuple[Decoder, Path]:
    """Create a tiny decoder with bf16-representable weights and a nonzero adapter."""
    decoder = Decoder(parse_config({**llama_json(64, 32, 2, 4, 2, 48), "dtype": "bfloat16"}))
    initialise(decoder, seed=0)
    save_decoder(decoder, folder / "plain")
    decoder = load_decoder(folder / "plain")
    lora = LoraConfig(4, 8.0, ("q_proj", "o_proj", "down_proj"))
    add_adapter(decoder, "policy", lora, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter_parameters(decoder, "policy"):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    save_adapter(decoder, "policy", lora, folder / "adapter", parent="plain")
    return decoder, folder / "adapter"


def test_merged_weights_equal_base_with_adapter(tmp_path: Path) -> None:
    decoder, folder = trained_adapter(tmp_path)
    ids = torch.arange(12)[None]
    with torch.no_grad(), active_adapter(decoder, "policy"):
        expected = decoder.logits(decoder(ids))
    adapter, weights = open_adapter(folder), open_tensors(tmp_path / "plain" / "model.safetensors")
    merged = {
        name: torch.tensor(adapter.apply(name, weights.tensor(name))) for name in weights.entries
    }
    save_file(merged, tmp_path / "plain" / "model.safetensors")
    whole = load_decoder(tmp_path / "plain")
    with torch.no_grad():
        found = whole.logits(whole(ids))
        plain = decoder.logits(decoder(ids))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (plain - expected).abs().max() > 0.01


def test_adapter_of_another_shape_is_rejected_with_tensor_name(tmp_path: Path) -> None:
    adapter = open_adapter(trained_adapter(tmp_path)[1])
    name = "model.layers.0.self_attn.q_proj.weight"
    with refused(ModelError, field=name, reason="MISMATCH", limit="(7, 32)"):
        adapter.apply(name, np.zeros((7, 32), np.float32))


@pytest.mark.parametrize("field", ["use_dora", "use_rslora", "modules_to_save"])
def test_unsupported_lora_variant_is_rejected(tmp_path: Path, field: str) -> None:
    folder = trained_adapter(tmp_path)[1]
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**settings, field: True}))
    with refused(ModelError, field=field, reason="UNSUPPORTED"):
        open_adapter(folder)


def test_bfloat16_rounding_equals_torch(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    values[:4] = [0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8]  # the last two lie half-way
    expected = torch.tensor(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(values)), expected)


def test_written_files_are_readable_by_both_readers(tmp_path: Path) -> None:
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.arange(5, dtype=np.float32)}
    write_bfloat16(
        {name: value.shape for name, value in tensors.items()},
        tensors.__getitem__,
        tmp_path / "m.safetensors",
    )
    loaded = load_file(tmp_path / "m.safetensors")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in loaded.items()} == {
        "a": (torch.bfloat16, (2, 3)),
        "b": (torch.bfloat16, (5,)),
    }
    np.testing.assert_array_equal(
        open_tensors(tmp_path / "m.safetensors").tensor("b"), tensors["b"]
    )


def test_other_file_format_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"\xff" * 64)
    with refused(ModelError, field="m.safetensors", reason="MALFORMED", limit="safetensors"):
        open_tensors(tmp_path / "m.safetensors")


def test_another_rank_in_the_settings_is_refused(tmp_path: Path) -> None:
    _, folder = trained_adapter(tmp_path)
    settings = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**settings, "r": 8}))
    with refused(ModelError, field="r", reason="MISMATCH", limit="4"):
        open_adapter(folder)


def test_an_adapter_with_layers_that_the_base_lacks_is_refused(tmp_path: Path) -> None:
    _, folder = trained_adapter(tmp_path)
    adapter, base = open_adapter(folder), tmp_path / "plain" / "model.safetensors"
    check_targets(adapter, open_tensors(base))
    kept = {name: tensor for name, tensor in load_file(base).items() if ".layers.1." not in name}
    save_file(kept, tmp_path / "short.safetensors")
    with refused(ModelError, field="model.layers.1.mlp.down_proj.weight", reason="MISMATCH"):
        check_targets(adapter, open_tensors(tmp_path / "short.safetensors"))
