"""Sum of the adapters of a chain: equal to the merged model, of limited rank, with its base."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from services.generator.kubernetes.adapters import BaseAdapter, read_adapter
from tests.training.adapter_chains import train_adapter
from tests.training.closeness import LOG_PROB_ROUNDING
from tests.training.model.oracle_models import oracle
from training.artifacts.manifest import BASE_ADAPTER, write_manifest
from training.model.backbone import trainable_backbone
from training.model.base_adapter import LowRank
from training.model.checkpoint import load_decoder
from training.model.lora import (
    BASE_SHA256,
    LoraConfig,
    check_base,
    load_adapter,
    merge_adapter,
)
from training.model.transformer import Decoder
from training.stages.artifact import write_model

IDS_BT = torch.arange(3, 33).view(2, 15)
SFT = LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj", "down_proj"))
PPO = LoraConfig(rank=2, alpha=8.0)


@dataclass(frozen=True)
class Chain:
    """A base model and versions that were trained one on another by adapters."""

    base: Path

    def train(self, parent: Path, name: str, config: LoraConfig, **options: Any) -> dict[str, Any]:
        """Write the version `name` beside the base; return the entry for its manifest."""
        return train_adapter(parent, self.path(name), config, **options)

    def path(self, name: str) -> Path:
        return self.base.parent / name

    def difference(self, name: str) -> float:
        """Return the largest difference of log-probs: merged weights, and base with adapter."""
        served = load_decoder(self.base)
        load_adapter(served, "served", self.path(name) / BASE_ADAPTER)
        merge_adapter(served, "served")
        merged = load_decoder(self.path(name))
        return float((log_probs(served) - log_probs(merged)).abs().max())


def log_probs(decoder: Decoder) -> torch.Tensor:
    with torch.no_grad():
        return decoder.logits(decoder(IDS_BT)).log_softmax(-1)


@pytest.fixture(params=["gemma3", "qwen2", "llama"])
def chain(request: pytest.FixtureRequest, tmp_path: Path) -> Chain:
    oracle(request.param, tmp_path / "first")
    write_manifest(tmp_path / "first", kind="model", version="first")
    return Chain(tmp_path / "first")


def test_sum_of_a_chain_equals_the_merged_model(chain: Chain) -> None:
    first = chain.train(chain.base, "sft", SFT)
    assert first == {"base": "first", "rank": 3, "relative_error": 0.0}
    second = chain.train(chain.path("sft"), "ppo", PPO, seed=2, kept_ids=IDS_BT.flatten().tolist())
    # 3 + 2 for the projections of both, padded to 5 for the others.
    assert second == {"base": "first", "rank": 5, "relative_error": 0.0}
    moved = log_probs(load_decoder(chain.path("ppo"))) - log_probs(load_decoder(chain.base))
    assert moved.abs().max() > 0.1
    assert chain.difference("sft") < LOG_PROB_ROUNDING
    assert chain.difference("ppo") < LOG_PROB_ROUNDING
    config = json.loads((chain.path("ppo") / BASE_ADAPTER / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "first"
    assert len(config[BASE_SHA256]) == 64
    check_base(chain.path("ppo") / BASE_ADAPTER, chain.base)
    # The generator makes the same checks before vLLM serves it.
    assert read_adapter(chain.base.parent, "ppo", 5) == BaseAdapter("first", "ppo/base_adapter")
    assert (config["r"], config["lora_alpha"]) == (5, 5.0)


def test_reduction_is_the_nearest_update_and_its_error_is_stated(chain: Chain) -> None:
    chain.train(chain.base, "sft", SFT)
    rank = replace(PPO, served_rank=4)
    refused = chain.train(chain.path("sft"), "refused", rank, seed=2)
    assert refused.keys() == {"refused"}
    assert "rank 5" in refused["refused"]
    assert not (chain.path("refused") / BASE_ADAPTER).exists()
    # A second update that is small against the first one fits into fewer ranks.
    small = chain.train(chain.path("sft"), "small", rank, seed=2, spread=0.004)
    assert (small["rank"], small["base"]) == (4, "first")
    assert 0 < small["relative_error"] < 0.02
    assert chain.difference("small") < 0.02
    # The error of a parent is part of that of its children.
    child = chain.train(chain.path("small"), "child", rank, seed=3, spread=0.0001)
    assert child["relative_error"] > 0.9 * small["relative_error"]


def test_full_training_begins_a_new_chain(chain: Chain) -> None:
    chain.train(chain.base, "sft", SFT)
    decoder = load_decoder(chain.path("sft"))
    full = trainable_backbone(decoder, "policy", None, seed=1)
    assert write_model(full, None, chain.path("sft"), chain.path("full")) == {}
    assert not (chain.path("full") / BASE_ADAPTER).exists()
    assert chain.train(chain.path("full"), "next", PPO)["base"] == "full"


def test_base_adapter_that_cannot_be_read_does_not_lose_the_training(chain: Chain) -> None:
    chain.train(chain.base, "sft", SFT)
    weights = chain.path("sft") / BASE_ADAPTER / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(dict(list(tensors.items())[1:]), weights)
    found = chain.train(chain.path("sft"), "ppo", PPO)
    assert "is no pair of matrices of rank 3" in found["refused"]
    assert (chain.path("ppo") / "model.safetensors").is_file()


def test_gpt2_has_none(tmp_path: Path) -> None:
    oracle("gpt2", tmp_path / "first")
    write_manifest(tmp_path / "first", kind="model", version="first")
    assert "GPT-2" in Chain(tmp_path / "first").train(tmp_path / "first", "next", PPO)["refused"]


ranks = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(ranks, st.integers(1, 9), st.integers(0, 2**31))
def test_reduced_sums_match_the_singular_values(parts: Sequence[int], rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    updates = [
        LowRank(torch.randn(r, 7, generator=generator), torch.randn(9, r, generator=generator))
        for r in parts
    ]
    total = updates[0]
    for update in updates[1:]:
        total = total.plus(update)
    exact = sum((u.b.double() @ u.a.double() for u in updates), torch.zeros(9, 7).double())
    assert total.rank == sum(parts)
    assert total.squared_norm() == pytest.approx(float(exact.square().sum()), rel=1e-9)
    reduced, squared = total.reduced(rank)
    assert reduced.rank <= max(rank, 1)
    lost = torch.linalg.svdvals(exact)[rank:].square().sum() if total.rank > rank else 0.0
    assert squared == pytest.approx(float(lost), abs=1e-9)
    wide = reduced.padded(12)
    difference = float((wide.b.double() @ wide.a.double() - exact).square().sum())
    assert difference == pytest.approx(squared, abs=1e-6 * (1 + total.squared_norm()))
