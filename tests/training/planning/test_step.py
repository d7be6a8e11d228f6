"""Numbers of weights, compared with real decoders on the meta device and with published counts."""

import pytest
import torch

from tests.support.errors import refused
from training.errors import ConfigError
from training.model.lora import LoraConfig, add_adapter
from training.model.transformer import Decoder
from training.planning.step import adapter_size, sizes_of
from training.recipes.open_models.recipes import shape, shape_names

# From the safetensors of the models: Qwen3 0.6B without the copy of its tied head, Gemma 3 4B
# (4,300,079,472) and 27B (27,432,406,640) without tower and projector.
PUBLISHED = {
    "gemma-3-1b": 999_885_952,
    "gemma-3-270m": 268_098_176,
    "gemma-3-27b": 27_009_346_304,
    "gemma-3-4b": 3_880_263_168,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-32b": 32_762_123_264,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
}


def test_every_shape_has_a_published_count() -> None:
    assert shape_names() == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shape_has_the_published_number_of_weights(name: str) -> None:
    model = shape(name)
    with torch.device("meta"):
        decoder = Decoder(model)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == PUBLISHED[name]
    sizes = sizes_of(model)
    assert sizes.total == PUBLISHED[name]
    assert sizes.head == model.hidden_size * model.vocab_size
    assert sizes.held(1) == sizes.total


def test_adapter_has_the_size_of_a_real_one() -> None:
    model, lora = shape("qwen3-0.6b"), LoraConfig(rank=4, targets=("q_proj", "down_proj"))
    small = model.__class__(
        **{**vars(model), "num_layers": 2, "windows": (None,) * 2, "ropes": model.ropes[:2]}
    )
    decoder = Decoder(small)
    assert adapter_size(small, lora) == sum(
        p.numel() for p in add_adapter(decoder, "policy", lora, seed=1)
    )


def test_unknown_shape_is_rejected_with_known_names() -> None:
    with refused(ConfigError, field="shape", reason="UNKNOWN", limit=", ".join(sorted(PUBLISHED))):
        shape("gpt-5")
