"""Pre-training: packing, learning, and a model directory that SFT can start from."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.toys import KillAfter, Killed, ProgressList, write_lines
from training.data.chat import load_chat
from training.data.tokenize import train_tokenizer
from training.manifest import verify_manifest
from training.model.checkpoint import load_decoder
from training.model.config import llama_json
from training.optim.adam import OptimizerConfig
from training.stages import pretrain
from training.stages.context import ConfigError, Lineage, Machine, RunContext
from training.stages.pretrain import PretrainConfig
from training.stages.state import DirectoryCheckpoints

TEXTS = ["the tree stands by the river", "the bird sings in the tree", "a stone lies in the river"]


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    tokenizer = train_tokenizer(TEXTS, 280, tmp_path / "tokenizer")
    return PretrainConfig(
        tokenizer_directory=tmp_path / "tokenizer",
        data_path=write_lines(tmp_path / "texts.jsonl", [{"text": text} for text in TEXTS * 20]),
        output_directory=tmp_path / "base",
        lineage=Lineage("base"),
        model_json=llama_json(tokenizer.get_vocab_size(), 32, 2, 4, 2, 64),
        steps=30,
        batch_rows=4,
        context_tokens=32,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        checkpoint_every_steps=10,
        machine=Machine(threads=1),
    )


def test_the_loss_falls_and_the_directory_is_a_model(config: PretrainConfig, tmp_path: Path) -> None:
    progress = ProgressList()
    pretrain.run(config, RunContext(DirectoryCheckpoints(tmp_path / "run"), progress))
    losses = [step.metrics["loss"] for step in progress.steps]
    assert losses[-1] < 0.6 * losses[0]
    verify_manifest(config.output_directory)
    assert load_decoder(config.output_directory).config.vocab_size == 280
    assert load_chat(config.output_directory).stop_ids == (2,)


def test_a_killed_run_ends_with_the_same_bits(config: PretrainConfig, tmp_path: Path) -> None:
    pretrain.run(config, RunContext(DirectoryCheckpoints(tmp_path / "straight"), ProgressList()))
    again = replace(config, output_directory=tmp_path / "again")
    with pytest.raises(Killed):
        pretrain.run(again, RunContext(KillAfter(tmp_path / "killed", 10), ProgressList()))
    pretrain.run(again, RunContext(DirectoryCheckpoints(tmp_path / "killed"), ProgressList()))
    one, other = (verify_manifest(d) for d in (config.output_directory, again.output_directory))
    assert one.files == other.files
    assert one.report == other.report


def test_texts_are_closed_by_the_end_token_and_packed_without_gaps(config: PretrainConfig) -> None:
    rows = pretrain.pack(config)
    end = load_chat(config.tokenizer_directory).end_id
    assert rows.shape[1] == 32
    assert 40 < (rows == end).sum() <= 60


def test_data_shorter_than_a_row_is_refused(config: PretrainConfig) -> None:
    with pytest.raises(ConfigError, match="context_tokens: 100000"):
        pretrain.pack(replace(config, context_tokens=100_000))
