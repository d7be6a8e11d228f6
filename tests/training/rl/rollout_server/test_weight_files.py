"""Weights of a policy as files of a model server."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.errors import refused
from tests.training.rl.toy import toy_decoder
from training.artifacts.manifest import read_manifest
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder
from training.model.config import parse_config
from training.model.lora import ADAPTER_CONFIG, AdapterError, LoraConfig
from training.model.transformer import Decoder, initialise
from training.rl.networks import Sources, open_networks
from training.rl.rollout_server.weight_files import check_adapter, write_adapter, write_model
from training.serving.rollout_server import ServedType

LORA = LoraConfig(rank=2, targets=("q_proj", "down_proj"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return a model directory whose file has 16 bits."""
    decoder = toy_decoder()
    decoder.config = replace(decoder.config, raw={**decoder.config.raw, "dtype": "bfloat16"})
    save_decoder(decoder, tmp_path / "base")
    return tmp_path / "base"


def learned(sources: Sources) -> Backbone:
    """Return a policy after a change of all trained weights."""
    policy = open_networks(sources, with_reference=False).policy
    with torch.no_grad():
        for _, weight in policy.named_parameters():
            weight += torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.01
    return policy


@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "adapter"])
@torch.no_grad()
def test_written_model_computes_as_the_policy(base: Path, lora: LoraConfig | None) -> None:
    sources = Sources(base, None, lora, None, 0)
    policy, ids = learned(sources), torch.tensor([[2, 3, 4, 5]])
    expected = policy.decoder.logits(policy.hidden(ids))

    for kind, difference in ((ServedType.FLOAT32, 1e-5), (ServedType.BFLOAT16, 0.05)):
        directory = base.parent / kind.value
        weights = dict(policy.named_parameters())
        write_model(weights, sources, kind, directory, f"run-{kind.value}")
        written = load_decoder(directory)
        torch.testing.assert_close(written.logits(written(ids)), expected, atol=difference, rtol=0)
        assert json.loads((directory / "config.json").read_text())["dtype"] == kind.value
        assert read_manifest(directory).version == f"run-{kind.value}"


@torch.no_grad()
def test_head_of_the_embedding_can_be_written_on_its_own(base: Path) -> None:
    raw = {**load_decoder(base).config.raw, "tie_word_embeddings": True}
    tied = Decoder(parse_config(raw))
    initialise(tied, 1)
    assert tied.lm_head is None
    save_decoder(tied, base.parent / "tied")
    sources, ids = Sources(base.parent / "tied", None, None, None, 0), torch.tensor([[2, 3, 4]])
    policy, directory = learned(sources), base.parent / "written"
    weights = dict(policy.named_parameters())
    write_model(weights, sources, ServedType.FLOAT32, directory, "run-1", unties_head=True)
    written = load_decoder(directory)
    assert written.lm_head is not None
    assert torch.equal(written.logits(written(ids)), policy.decoder.logits(policy.hidden(ids)))


def test_written_adapter_fits_the_model(base: Path) -> None:
    sources = Sources(base, None, LORA, None, 0)
    write_adapter(dict(learned(sources).named_parameters()), sources, base.parent / "adapter")
    check_adapter(base.parent / "adapter", base, LORA)


def test_adapter_of_another_model_is_refused(base: Path) -> None:
    adapter = base.parent / "adapter"
    sources = Sources(base, None, LORA, None, 0)
    write_adapter(dict(learned(sources).named_parameters()), sources, adapter)

    renamed = base.parent / "renamed"
    base.rename(renamed)
    with refused(AdapterError, field="base_model_name_or_path", reason="MISMATCH", limit="renamed"):
        check_adapter(adapter, renamed, LORA)
    # Another size under the same name.
    raw = {**parse_config(json.loads((renamed / "config.json").read_text())).raw, "hidden_size": 64}
    larger = Decoder(parse_config(raw))
    initialise(larger, 1)
    save_decoder(larger, base)
    with refused(AdapterError, reason="MISMATCH"):
        check_adapter(adapter, base, LORA)


def test_adapter_of_another_rank_is_refused(base: Path) -> None:
    adapter = base.parent / "adapter"
    sources = Sources(base, None, LORA, None, 0)
    write_adapter(dict(learned(sources).named_parameters()), sources, adapter)
    with refused(AdapterError, field=ADAPTER_CONFIG, reason="MISMATCH"):
        check_adapter(adapter, base, replace(LORA, rank=4))
