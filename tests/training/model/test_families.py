"""Family differences handled by this library: GPT-2's files and positions, published configs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.errors import refused
from tests.training.model.hub_configs import HUB_CONFIGS
from tests.training.model.oracle_models import CONFIGS, oracle
from training.model.checkpoint import load_decoder, plain_weights, save_decoder
from training.model.config import gpt2_json, llama_json, parse_config
from training.model.fields import ModelConfigError
from training.model.lora import LoraConfig, adapter_parameters, add_adapter, merge_adapter
from training.model.transformer import Decoder, KeyValueCache, PositionError, initialise

IDS_BT = torch.arange(3, 63).view(2, 30)


def logits_of(decoder: Decoder, ids_BT: torch.Tensor = IDS_BT) -> torch.Tensor:
    with torch.no_grad():
        return decoder.logits(decoder(ids_BT))


def theirs(directory: Path) -> torch.Tensor:
    """Return the logits of transformers for the directory; missing and unknown tensors fail."""
    model, report = AutoModelForCausalLM.from_pretrained(
        directory, attn_implementation="eager", output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(IDS_BT).logits
    return logits


@pytest.mark.parametrize("name", sorted(HUB_CONFIGS))
def test_logits_equal_transformers_for_published_configs(name: str, tmp_path: Path) -> None:
    raw = HUB_CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(raw))
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(tmp_path), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3)
        expected = model(IDS_BT).logits
    model.save_pretrained(tmp_path)
    # The authors' spelling, not that of transformers 5.
    (tmp_path / "config.json").write_text(json.dumps(raw))
    assert (logits_of(load_decoder(tmp_path)) - expected).abs().max() < 1e-4
    assert expected.std() > 0.1


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_transformers_loads_saved_models_with_equal_logits(family: str, tmp_path: Path) -> None:
    oracle(family, tmp_path / "theirs")
    decoder = load_decoder(tmp_path / "theirs")
    add_adapter(decoder, "tuned", LoraConfig(rank=2), seed=1)
    with torch.no_grad():
        for parameter in adapter_parameters(decoder, "tuned"):
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(2))
    merge_adapter(decoder, "tuned")
    save_decoder(decoder, tmp_path / "ours")
    assert (theirs(tmp_path / "ours") - logits_of(decoder)).abs().max() < 1e-4
    assert load_file(tmp_path / "ours" / "model.safetensors").keys() == load_file(
        tmp_path / "theirs" / "model.safetensors"
    ).keys() | ({"lm_head.weight"} if decoder.lm_head else set())


def test_new_gpt2_loads_in_transformers_with_equal_logits(tmp_path: Path) -> None:
    decoder = Decoder(parse_config(gpt2_json(97, 32, 2, 4, max_positions=64)))
    initialise(decoder, seed=1)
    save_decoder(decoder, tmp_path)
    assert (theirs(tmp_path) - logits_of(decoder)).abs().max() < 1e-4


def test_gpt2_files_with_openais_original_names_are_read(tmp_path: Path) -> None:
    oracle("gpt2", tmp_path)
    expected = logits_of(load_decoder(tmp_path))
    tensors = {
        name.removeprefix("transformer."): t
        for name, t in load_file(tmp_path / "model.safetensors").items()
    }
    for layer in range(3):  # causal masks, included in these files
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.bool).tril()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(logits_of(load_decoder(tmp_path)), expected)


def test_gpt2_has_llama_names_in_memory(tmp_path: Path) -> None:
    oracle("gpt2", tmp_path)
    decoder = load_decoder(tmp_path)
    names = set(decoder.state_dict())
    assert "model.layers.0.self_attn.q_proj.weight" in names
    assert not any("c_attn" in name for name in names)
    assert "transformer.h.0.attn.c_attn.weight" in plain_weights(decoder)
    assert all(parameter.is_contiguous() for parameter in decoder.parameters())
    assert len({p.untyped_storage().data_ptr() for p in decoder.parameters()}) == len(
        list(decoder.parameters())
    )


def test_document_longer_than_the_learned_positions_is_refused(tmp_path: Path) -> None:
    oracle("gpt2", tmp_path)
    decoder = load_decoder(tmp_path)
    ids_BT = torch.randint(3, 97, (1, 65), generator=torch.Generator().manual_seed(1))
    with refused(PositionError, field="max_positions", reason="TOO_LARGE", limit="64") as caught:
        decoder(ids_BT)
    assert "65" in caught.value.text
    with torch.no_grad():
        packed = torch.ones_like(ids_BT).cumsum(1).clamp(max=2)  # two documents within the limit
        whole = decoder(ids_BT, packed)
        assert (whole[:, 1:] - decoder(ids_BT[:, 1:])).abs().max() < 5e-5
        cache = KeyValueCache(65)
        decoder(ids_BT[:, :64], torch.ones(1, 64), cache)
        with pytest.raises(PositionError):
            decoder(ids_BT[:, 64:], torch.ones(1, 65), cache)


def test_learned_positions_restart_with_each_document(tmp_path: Path) -> None:
    oracle("gpt2", tmp_path)
    decoder = load_decoder(tmp_path)
    with torch.no_grad():
        # Unused positions: no document is that long.
        decoder.model.embed_positions.weight[20:] = float("nan")
        mask_BS = torch.tensor([[0, 0, *[1] * 14, *[2] * 14], [*[1] * 10, *[2] * 10, *[3] * 10]])
        assert torch.isfinite(decoder(IDS_BT, mask_BS)).all()


def test_scaled_residuals_shrink_only_the_output_projections() -> None:
    plain, scaled = (Decoder(parse_config(llama_json(97, 32, 8, 4, 2, 48))) for _ in range(2))
    initialise(plain, 1)
    initialise(scaled, 1, scaled_residuals=True)
    for (name, before), (_, after) in zip(
        plain.named_parameters(), scaled.named_parameters(), strict=True
    ):
        onto = name.endswith(("o_proj.weight", "down_proj.weight"))
        assert torch.allclose(after, before / 4 if onto else before)  # sqrt(2 * 8) = 4


@pytest.mark.parametrize(
    ("name", "change", "field", "reason"),
    [
        ("gpt2", {"n_embd": None}, "n_embd", "MISSING"),
        ("gpt2", {"n_positions": None}, "n_positions", "MISSING"),
        ("gpt2", {"n_head": 5}, "n_embd", "MISMATCH"),
        ("gpt2", {"activation_function": "relu"}, "activation_function", "UNKNOWN"),
        (
            "gpt2",
            {"scale_attn_by_inverse_layer_idx": True},
            "scale_attn_by_inverse_layer_idx",
            "UNSUPPORTED",
        ),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention", "UNSUPPORTED"),
        ("llama-3.2-1b", {"hidden_size": None}, "hidden_size", "MISSING"),
        ("llama-3.2-1b", {"vocab_size": "97"}, "vocab_size", "OUT_OF_RANGE"),
        ("llama-3.2-1b", {"num_hidden_layers": 10**9}, "num_hidden_layers", "OUT_OF_RANGE"),
        ("llama-3.2-1b", {"num_attention_heads": True}, "num_attention_heads", "OUT_OF_RANGE"),
        ("llama-3.2-1b", {"num_key_value_heads": 3}, "num_attention_heads", "MISMATCH"),
        ("llama-3.2-1b", {"head_dim": 7}, "head_dim", "MISMATCH"),
        ("llama-3.2-1b", {"rms_norm_eps": float("nan")}, "rms_norm_eps", "OUT_OF_RANGE"),
        ("llama-3.2-1b", {"tie_word_embeddings": "yes"}, "tie_word_embeddings", "WRONG_TYPE"),
        (
            "llama-3.2-1b",
            {"rope_scaling": {"rope_type": "yarn", "factor": 4}},
            "rope_type",
            "UNKNOWN",
        ),
        (
            "llama-3.2-1b",
            {"rope_scaling": {"rope_type": "llama3", "factor": 4}},
            "low_freq_factor",
            "MISSING",
        ),
        ("llama-3.2-1b", {"rope_scaling": "linear"}, "rope_scaling", "WRONG_TYPE"),
        ("llama-3.2-1b", {"partial_rotary_factor": 0.5}, "partial_rotary_factor", "UNSUPPORTED"),
        (
            "llama-3.2-1b",
            {"quantization_config": {"bits": 4}},
            "quantization_config",
            "UNSUPPORTED",
        ),
        ("llama-3.2-1b", {"dtype": "float8"}, "dtype", "UNKNOWN"),
        ("llama-3.2-1b", {"layer_types": ["sliding_attention"] * 2}, "layer_types", "CONFLICT"),
        ("qwen3-0.6b", {"layer_types": ["sliding_attention"] * 2}, "layer_types", "CONFLICT"),
        ("qwen3-0.6b", {"layer_types": ["full_attention"]}, "layer_types", "MISMATCH"),
        (
            "qwen3-0.6b",
            {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": None},
            "max_window_layers",
            "WRONG_TYPE",
        ),
        ("gemma-3-1b", {"sliding_window": None}, "sliding_window", "MISSING"),
        ("gemma-3-1b", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping", "UNSUPPORTED"),
        ("gemma-3-1b", {"model_type": "gemma3"}, "model_type", "UNKNOWN"),
    ],
)
def test_invalid_or_unsupported_config_is_refused_by_field(
    name: str, change: dict[str, Any], field: str, reason: str
) -> None:
    with refused(ModelConfigError, field=field, reason=reason):
        parse_config({**HUB_CONFIGS[name], **change})
