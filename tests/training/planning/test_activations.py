"""Estimated activation memory compared with autograd."""

from typing import Any

import pytest

from tests.training.model.hub_configs import GEMMA_3_1B, QWEN3_0_6B
from tests.training.planning.kept import kept
from training.model.config import gpt2_json, llama_json, parse_config
from training.planning.activations import Forward, copied_weights_bytes, kept_bytes, layer_bytes
from training.planning.sizes import sizes_of

ROWS, TOKENS = 2, 256
SIZES = {
    "vocab_size": 64,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": llama_json(64, 256, 4, 8, 2, 640),
    "gpt2": gpt2_json(64, 256, 4, 8),
    "qwen3": QWEN3_0_6B | SIZES | {"num_hidden_layers": 4},
    "gemma3": GEMMA_3_1B | SIZES | {"num_hidden_layers": 6},
}


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("narrow", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", SHAPES)
def test_counts_are_within_3_percent_of_autograd(name: str, narrow: bool, adapted: bool) -> None:
    model, forward = parse_config(SHAPES[name]), Forward(narrow=narrow, adapted=adapted)
    planned = kept_bytes(model, forward, ROWS, TOKENS) + copied_weights_bytes(
        sizes_of(model), forward
    )
    assert planned == pytest.approx(
        kept(model, ROWS, TOKENS, narrow, adapted, recomputed=False), rel=0.03
    )


@pytest.mark.parametrize("narrow", [False, True], ids=["fp32", "bf16"])
def test_recomputation_stores_the_inputs_of_layers(narrow: bool) -> None:
    """Count inputs only; test_memory covers the recomputed layer of the backward pass."""
    model, forward = parse_config(SHAPES["llama"]), Forward(narrow=narrow, recomputed=True)
    inputs = ROWS * TOKENS * model.num_layers * model.hidden_size * 4
    last_norm, mask = ROWS * TOKENS * model.hidden_size * 8, ROWS * TOKENS * TOKENS
    held = kept(model, ROWS, TOKENS, narrow, adapted=False, recomputed=True)
    assert held == pytest.approx(inputs + last_norm + mask, rel=0.01)
    one_layer = ROWS * TOKENS * layer_bytes(model, forward, TOKENS)
    assert held == pytest.approx(kept_bytes(model, forward, ROWS, TOKENS) - one_layer, rel=0.01)


def test_only_split_parts_shrink_with_tensor_parallelism() -> None:
    model = parse_config(SHAPES["llama"])
    one, two, four = (kept_bytes(model, Forward(tensor), 1, 64) for tensor in (1, 2, 4))
    assert one - two == 2 * (two - four) > 0
    assert four > one / 2
