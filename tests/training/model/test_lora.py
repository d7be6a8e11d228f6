"""Adapters: no initial effect, independence, merging, and files."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.support.errors import refused
from tests.training.model.oracle_models import oracle
from training.artifacts.manifest import write_manifest
from training.errors import ConfigError
from training.model.checkpoint import load_decoder, plain_weights
from training.model.config import PROJECTIONS
from training.model.lora import (
    AdapterError,
    LoraConfig,
    active_adapter,
    adapter_parameters,
    add_adapter,
    check_base,
    copy_adapter,
    load_adapter,
    merge_adapter,
    read_adapter_config,
    record_base,
    save_adapter,
)
from training.model.transformer import Decoder
from training.model.vocabulary import choose_rows, trim_vocabulary

IDS_BT = torch.arange(3, 33).view(2, 15)


@pytest.fixture(params=["gemma3", "gpt2", "qwen2"])
def decoder(request: pytest.FixtureRequest, tmp_path: Path) -> Decoder:
    oracle(request.param, tmp_path)
    return load_decoder(tmp_path)


def shake(decoder: Decoder, name: str, seed: int = 5) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter_parameters(decoder, name):
            parameter.normal_(0, 0.1, generator=generator)


def hidden(decoder: Decoder, adapter: str | None) -> torch.Tensor:
    with torch.no_grad(), active_adapter(decoder, adapter):
        states: torch.Tensor = decoder(IDS_BT)
    return states


def test_new_adapter_changes_no_output_and_alone_is_trainable(decoder: Decoder) -> None:
    plain = decoder(IDS_BT).detach()
    parameters = add_adapter(decoder, "policy", LoraConfig(rank=2), seed=1)
    assert torch.equal(hidden(decoder, "policy"), plain)
    trainable = [p for p in decoder.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in parameters}
    assert len(parameters) == 2 * (7 if decoder.config.gated_mlp else 6) * decoder.config.num_layers


def test_adapters_on_one_decoder_are_independent(decoder: Decoder) -> None:
    plain = hidden(decoder, None)
    for name in ("policy", "critic"):
        add_adapter(decoder, name, LoraConfig(rank=2), seed=1)
    shake(decoder, "policy")
    changed = hidden(decoder, "policy")
    assert torch.equal(hidden(decoder, "critic"), plain)
    assert torch.equal(hidden(decoder, None), plain)
    assert (changed - plain).abs().max() > 1e-2
    assert all(p.requires_grad for p in adapter_parameters(decoder, "policy"))
    copy_adapter(decoder, "policy", "critic")
    assert torch.equal(hidden(decoder, "critic"), changed)


def test_merging_equals_the_active_adapter(decoder: Decoder) -> None:
    add_adapter(decoder, "policy", LoraConfig(rank=2, targets=("q_proj", "down_proj")), seed=1)
    shake(decoder, "policy")
    active = hidden(decoder, "policy")
    names = set(plain_weights(decoder))
    merge_adapter(decoder, "policy")
    assert (hidden(decoder, None) - active).abs().max() < 1e-4
    assert set(plain_weights(decoder)) == names


def test_adapter_round_trips_through_disk(decoder: Decoder, tmp_path: Path) -> None:
    config = LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj"))
    add_adapter(decoder, "policy", config, seed=1)
    shake(decoder, "policy")
    save_adapter(decoder, "policy", config, tmp_path / "adapter", parent="first-model")
    assert load_adapter(decoder, "again", tmp_path / "adapter") == config
    assert torch.equal(hidden(decoder, "again"), hidden(decoder, "policy"))
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "first-model"
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 3, 5.0)


def test_adapter_files_have_pefts_names(decoder: Decoder, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    config = LoraConfig(rank=2, targets=("q_proj",))
    add_adapter(decoder, "policy", config, seed=1)
    save_adapter(decoder, "policy", config, tmp_path / "adapter", parent="x")
    names = set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight" in names
    assert len(names) == 2 * decoder.config.num_layers


def test_mismatched_adapter_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    config = LoraConfig(rank=2)
    add_adapter(decoder, "policy", config, seed=1)
    save_adapter(decoder, "policy", config, tmp_path / "adapter", parent="x")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**settings, "r": 4}))
    with refused(AdapterError, reason="MISMATCH") as caught:
        load_adapter(decoder, "again", tmp_path / "adapter")
    assert caught.value.field.endswith(".lora_A.weight")
    with refused(AdapterError, field="policy", reason="EXISTS"):
        add_adapter(decoder, "policy", config, seed=1)
    settings |= {"target_modules": ["lm_head"]}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    with refused(
        AdapterError, field="targets", reason="UNKNOWN", limit=", ".join(PROJECTIONS)
    ) as caught:
        load_adapter(decoder, "head", tmp_path / "adapter")
    assert "lm_head" in caught.value.text


def test_adapter_of_another_base_is_refused(decoder: Decoder, tmp_path: Path) -> None:
    add_adapter(decoder, "policy", LoraConfig(rank=2), seed=1)
    adapter = tmp_path / "adapter"
    save_adapter(decoder, "policy", LoraConfig(rank=2), adapter, parent="first")
    for name, weight in (("first", 1.0), ("copy", 1.0), ("other", 2.0)):
        folder = tmp_path / name
        folder.mkdir()
        save_file({"w": torch.full((2,), weight)}, folder / "model.safetensors")
        (folder / "README.md").write_text(name)  # is not part of the weights
        write_manifest(folder, kind="model", version=name)
    # As an operator writes it for a model server, without the fields of a run.
    manifest = tmp_path / "copy" / "manifest.json"
    fields = json.loads(manifest.read_bytes())
    manifest.write_text(json.dumps({"version": "copy", "files": fields["files"]}))
    record_base(adapter, tmp_path / "first")
    check_base(adapter, tmp_path / "copy")
    with refused(AdapterError, field="base_model_sha256", reason="MISMATCH") as caught:
        check_base(adapter, tmp_path / "other")
    assert "first" in caught.value.text
    assert load_adapter(decoder, "again", adapter).rank == 2


def test_adapter_without_a_hash_of_its_base_passes(decoder: Decoder, tmp_path: Path) -> None:
    add_adapter(decoder, "policy", LoraConfig(rank=2), seed=1)
    save_adapter(decoder, "policy", LoraConfig(rank=2), tmp_path / "adapter", parent="first")
    record_base(tmp_path / "adapter", tmp_path)  # a base without a manifest
    check_base(tmp_path / "adapter", tmp_path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "MALFORMED"),
        ("[]", "WRONG_TYPE"),
        ('{"lora_alpha": 1, "target_modules": ["q_proj"]}', "MALFORMED"),
        ('{"r": 2, "lora_alpha": 1, "target_modules": "all-linear"}', "MALFORMED"),
        ('{"r": 2, "lora_alpha": 1, "target_modules": [7]}', "MALFORMED"),
    ],
)
def test_malformed_adapter_config_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    with refused(AdapterError, field="adapter_config.json", reason=reason):
        read_adapter_config(tmp_path)


def test_trimmed_vocabulary_gives_the_selected_rows_of_the_full_logits(decoder: Decoder) -> None:
    full = decoder.logits(hidden(decoder, None))
    vocabulary = choose_rows(IDS_BT.flatten().tolist(), 97, rows=40)
    narrow_BT = torch.tensor([vocabulary.narrow(row) for row in IDS_BT.tolist()])
    trim_vocabulary(decoder, vocabulary)
    with torch.no_grad():
        narrow = decoder.logits(decoder(narrow_BT))
    assert narrow.shape[-1] == 40
    torch.testing.assert_close(narrow, full[..., list(vocabulary.kept)])
    assert vocabulary.widen(vocabulary.narrow([5, 32, 0])) == [5, 32, 0]


def test_selected_rows_are_the_used_ids_then_the_lowest() -> None:
    assert choose_rows([50, 7], 97, rows=4).kept == (0, 1, 7, 50)
    with refused(ConfigError, field="vocabulary_rows", reason="TOO_SMALL", limit="at least 2"):
        choose_rows([50, 7], 97, rows=1)
