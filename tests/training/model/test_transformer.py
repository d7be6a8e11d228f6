"""Parity with transformers on tiny random models, padding invariance, and cached decoding."""

import json
from pathlib import Path

import pytest
import torch

from tests.support.errors import refused
from tests.training.model.hub_configs import GEMMA_3_1B, QWEN2_5_0_5B
from tests.training.model.oracle_models import CONFIGS, oracle
from training.model.backbone import trainable_backbone
from training.model.checkpoint import load_decoder, read_config, save_decoder
from training.model.config import llama_json, parse_config
from training.model.fields import ModelConfigError
from training.model.lora import LoraConfig
from training.model.tensor_files import CheckpointError
from training.model.transformer import (
    Decoder,
    KeyValueCache,
    attention_mask,
    initialise,
    positions_of,
)

FAMILIES = sorted(CONFIGS)
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
SHAPES = {"gemma3": GEMMA_3_1B | SIZES, "qwen2": QWEN2_5_0_5B | SIZES}


def random_ids(batch: int, tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(3, 97, (batch, tokens), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_equal_transformers(family: str, tmp_path: Path) -> None:
    theirs = oracle(family, tmp_path)
    ours = load_decoder(tmp_path)
    ids_BT = random_ids(2, 40)
    with torch.no_grad():
        expected = theirs(ids_BT).logits
        found = ours.logits(ours(ids_BT))
    assert (found - expected).abs().max() < 1e-4
    assert expected.std() > 0.1


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "llama3_rope", "qwen2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_does_not_affect_real_tokens(
    family: str, side: str, tmp_path: Path
) -> None:
    oracle(family, tmp_path)
    decoder = load_decoder(tmp_path)
    ids_BT = random_ids(2, 20)
    pad = torch.full((2, 5), 96)
    order = (pad, ids_BT) if side == "left" else (ids_BT, pad)
    masks = (
        (torch.zeros(2, 5), torch.ones(2, 20))
        if side == "left"
        else (torch.ones(2, 20), torch.zeros(2, 5))
    )
    with torch.no_grad():
        alone = decoder(ids_BT)
        padded = decoder(torch.cat(order, 1), torch.cat(masks, 1).long())
    real = padded[:, 5:] if side == "left" else padded[:, :20]
    assert (real - alone).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_decoding_with_the_cache_equals_one_forward(family: str, tmp_path: Path) -> None:
    oracle(family, tmp_path)
    decoder = load_decoder(tmp_path)
    ids_BT = random_ids(3, 24)
    mask_BT = torch.ones_like(ids_BT)
    mask_BT[0, :7] = 0
    with torch.no_grad():
        whole = decoder(ids_BT, mask_BT)
        cache = KeyValueCache(24)
        parts = [decoder(ids_BT[:, :10], mask_BT[:, :10], cache)]
        parts += [decoder(ids_BT[:, t : t + 1], mask_BT[:, : t + 1], cache) for t in range(10, 24)]
    stepped = torch.cat(parts, dim=1)
    # A loose bound, because the large weights give states up to 5 instead of 1.
    assert ((whole - stepped).abs() * mask_BT[:, :, None]).max() < 5e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_equal_separate_documents(family: str, tmp_path: Path) -> None:
    oracle(family, tmp_path)
    decoder = load_decoder(tmp_path)
    parts = [random_ids(1, tokens, seed=tokens) for tokens in (9, 1, 14)]
    numbers = [torch.full_like(part, number) for number, part in enumerate(parts, start=1)]
    filling = torch.zeros(1, 3, dtype=torch.long)
    with torch.no_grad():
        packed = decoder(torch.cat([*parts, filling], 1), torch.cat([*numbers, filling], 1))
        alone = torch.cat([decoder(part) for part in parts], dim=1)
    assert (packed[:, :24] - alone).abs().max() < 5e-5


def test_sliding_window_hides_older_tokens() -> None:
    mask_BS = torch.ones(1, 6, dtype=torch.long)
    seen = attention_mask(mask_BS, 6, window=3)[0, 0]
    assert seen[5].tolist() == [False, False, False, True, True, True]
    assert attention_mask(mask_BS, 1, window=None)[0, 0].tolist() == [[True] * 6]


def test_positions_count_real_tokens_only() -> None:
    assert positions_of(torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])).tolist() == [
        [0, 0, 0, 1, 2],
        [0, 1, 2, 2, 2],
    ]
    assert positions_of(torch.tensor([[0, 1, 1, 1, 2, 3, 3, 0]])).tolist() == [
        [0, 0, 1, 2, 0, 0, 1, 1]
    ]


def test_gemma_embedding_scale_is_rounded_to_the_weight_type() -> None:
    raw = {**CONFIGS["gemma3"]().to_dict(), "hidden_size": 640}
    assert parse_config({**raw, "dtype": "bfloat16"}).embedding_scale == 25.25
    assert parse_config({**raw, "dtype": "float32"}).embedding_scale == pytest.approx(
        25.2982, abs=1e-4
    )
    assert parse_config({**raw, "dtype": "float16"}).embedding_scale == 25.296875


def test_missing_dtype_is_taken_from_the_stored_weights(tmp_path: Path) -> None:
    oracle("gemma3", tmp_path)
    decoder = load_decoder(tmp_path)
    decoder.config.raw["dtype"] = "bfloat16"  # type: ignore[index]
    save_decoder(decoder, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path).embedding_scale == 5.65625  # sqrt(32) in bfloat16
    assert decoder.config.embedding_scale == pytest.approx(5.65685, abs=1e-5)


def test_sharded_weights_are_read_through_the_index(tmp_path: Path) -> None:
    model = oracle("llama", tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    one, many = (
        load_decoder(tmp_path / "one").state_dict(),
        load_decoder(tmp_path / "many").state_dict(),
    )
    assert all(torch.equal(one[name], many[name]) for name in one)


def test_old_and_new_fields_of_gemma_rope_are_equivalent() -> None:
    raw = CONFIGS["gemma3"]().to_dict()
    old = {
        k: v
        for k, v in raw.items()
        if k not in ("rope_parameters", "layer_types", "_sliding_window_pattern")
    }
    old |= {
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": None,
        "sliding_window_pattern": 6,
    }
    assert parse_config(old).ropes == parse_config(raw).ropes
    assert parse_config(old).windows == parse_config(raw).windows


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        ({"model_type": "mixtral"}, "model_type", "UNKNOWN"),
        ({"hidden_act": "relu"}, "hidden_act", "UNKNOWN"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type", "UNKNOWN"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping", "UNSUPPORTED"),
    ],
)
def test_unsupported_config_is_refused_by_field(
    change: dict[str, object], field: str, reason: str
) -> None:
    with refused(ModelConfigError, field=field, reason=reason):
        parse_config({**llama_json(64, 32, 2, 4, 2, 48), **change})


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "gpt2_untied", "qwen2", "llama"])
def test_saving_and_loading_is_bit_identical(family: str, tmp_path: Path) -> None:
    oracle(family, tmp_path / "a")
    decoder = load_decoder(tmp_path / "a")
    save_decoder(decoder, tmp_path / "b", companions_from=tmp_path / "a")
    again = load_decoder(tmp_path / "b")
    assert decoder.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(t, again.state_dict()[n]) for n, t in decoder.state_dict().items())
    assert (tmp_path / "b" / "generation_config.json").exists()


def test_mismatched_weights_are_refused_by_name(tmp_path: Path) -> None:
    oracle("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 98}))
    with refused(CheckpointError, field="lm_head.weight", reason="MISMATCH", limit="[98, 32]"):
        load_decoder(tmp_path)


def test_initial_weights_are_a_function_of_the_seed() -> None:
    models = [Decoder(parse_config(llama_json(64, 32, 2, 4, 2, 48))) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        initialise(model, seed)
    first, same, other = (m.model.layers[0].get_parameter("mlp.up_proj.weight") for m in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("family", ["gemma3", "qwen2"])
def test_frozen_matrices_in_bfloat16_give_the_bits_of_autocast(family: str) -> None:
    def trained(stored_narrow: bool) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        decoder = Decoder(parse_config(SHAPES[family]))
        initialise(decoder, 1)
        policy = trainable_backbone(decoder, "policy", LoraConfig(rank=2), seed=1)
        with torch.no_grad():
            for _, parameter in policy.named_parameters():
                parameter.add_(0.01)
        if stored_narrow:
            decoder.narrow_frozen()
        with torch.autocast("cpu", torch.bfloat16):
            hidden_BTD = policy.hidden(random_ids(2, 12))
        torch.autograd.backward(decoder.logits(hidden_BTD).logsumexp(-1).sum())
        held = sum(p.numel() * p.element_size() for p in decoder.model.layers.parameters())
        return (
            hidden_BTD,
            [p.grad for _, p in policy.named_parameters() if p.grad is not None],
            held,
        )

    (wide_BTD, gradients, bytes_of), (narrow_BTD, found, narrow_bytes) = (
        trained(False),
        trained(True),
    )
    assert torch.equal(narrow_BTD, wide_BTD)
    assert len(found) == len(gradients) > 0
    assert all(torch.equal(one, other) for one, other in zip(found, gradients, strict=True))
    assert narrow_bytes < 0.6 * bytes_of


def test_only_frozen_matrices_of_layers_are_stored_in_bfloat16() -> None:
    decoder = Decoder(parse_config(SHAPES["qwen2"]))
    policy = trainable_backbone(decoder, "policy", LoraConfig(rank=2), seed=1)
    decoder.narrow_frozen()
    narrow = {name for name, p in decoder.named_parameters() if p.dtype == torch.bfloat16}
    assert narrow and all(name.endswith("_proj.weight") for name in narrow)
    assert all(p.dtype == torch.float32 for _, p in policy.named_parameters())
    # Outside of autocast too: sampling and references need no context of their own.
    with torch.no_grad():
        assert torch.isfinite(decoder(random_ids(1, 5))).all()
    learned = Decoder(parse_config(SHAPES["qwen2"]))
    learned.narrow_frozen()
    assert not learned.stored_narrow
    assert {p.dtype for p in learned.parameters()} == {torch.float32}
