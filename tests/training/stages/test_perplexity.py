"""Bits per byte are exact for any packing."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.errors import refused
from tests.training.stages.pretrain_and_die import pretrain_config
from training.data.chat import load_chat
from training.data.packing import PackedRows
from training.errors import ConfigError
from training.model.config import parse_config
from training.model.transformer import Decoder, initialise
from training.runtime.ranks import ALONE
from training.stages import pretrain
from training.stages.perplexity import measure
from training.stages.pretrain import PretrainConfig


def plainly() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    return pretrain_config(tmp_path)


def test_bits_per_byte_equal_those_of_separate_texts(config: PretrainConfig) -> None:
    # Rows with whole documents or parts; long rows make no difference to texts that fit.
    data = pretrain.open_data(replace(config, context_tokens=256))
    decoder = Decoder(parse_config(config.model_json))
    initialise(decoder, 3)
    stream = data.held_out.stream
    single_row = PackedRows(stream, stream.tokens, "documents")
    surprise = measure(decoder, single_row, 4, plainly, ALONE)
    nats, text_bytes = 0.0, 0
    for number in range(stream.documents):
        ids = torch.from_numpy(stream.read(*stream.token_begins[number : number + 2].tolist()))
        with torch.no_grad():
            log_probs = decoder.logits(decoder(ids[None]))[0].log_softmax(-1)
        nats -= sum(
            float(log_probs[place, ids[place + 1]]) for place in range(len(ids) - 2)
        )  # without the end token
        text_bytes += len(load_chat(config.tokenizer_directory).decode(ids.tolist()).encode())
    assert surprise.bytes == text_bytes
    assert surprise.bits_per_byte == pytest.approx(nats / math.log(2) / text_bytes, rel=1e-5)
    assert surprise.perplexity == pytest.approx(math.exp(nats / surprise.tokens), rel=1e-5)
    cut = measure(decoder, PackedRows(stream, 7, "documents"), 4, plainly, ALONE)
    assert (cut.tokens, cut.bytes) == (surprise.tokens, surprise.bytes)


def test_bits_per_byte_of_a_uniform_model_follow_from_the_vocabulary(
    config: PretrainConfig,
) -> None:
    data = pretrain.open_data(config)
    decoder = Decoder(parse_config(config.model_json))
    nn.init.zeros_(decoder.model.embed_tokens.weight)
    surprise = measure(decoder, data.held_out, 4, plainly, ALONE)
    assert surprise.bits_per_byte == pytest.approx(
        math.log2(280) * surprise.tokens / surprise.bytes, rel=1e-5
    )


def test_stream_packing_is_rejected(config: PretrainConfig) -> None:
    data = pretrain.open_data(config)
    stream = PackedRows(data.held_out.stream, 8, "stream")
    with refused(ConfigError, field="packing", reason="UNSUPPORTED", limit="documents"):
        measure(Decoder(parse_config(config.model_json)), stream, 4, plainly, ALONE)
