"""Pre-training: learning, gradients of split batches, evaluation, samples and output for SFT."""

import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.support.errors import refused
from tests.training.stages import pretrain_and_die
from tests.training.stages.pretrain_and_die import pretrain_config
from tests.training.toys import KillAfter, Killed, ProgressList
from training.artifacts.manifest import ManifestError, verify_manifest
from training.cluster.runner import StageRun, run_stage
from training.data.chat import load_chat
from training.data.packing import PACKINGS
from training.data.token_shards import ShardConfig, ShardError, open_shards, write_shards
from training.errors import ConfigError
from training.model.checkpoint import load_decoder
from training.model.config import llama_json, parse_config
from training.model.transformer import Decoder, initialise
from training.optim.config import ALGORITHMS
from training.optim.gradients import NonFiniteError
from training.optim.optimizers import OptimizerConfig
from training.progress_log import SAMPLES, read_samples
from training.runtime.context import Machine, RunContext
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints, latest_complete
from training.stages import pretrain
from training.stages.pretrain import PretrainConfig
from training.stages.pretrain_config import SampleConfig
from training.tokenization.byte_pairs import train_tokenizer


def plainly() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    return pretrain_config(tmp_path)


def train(config: PretrainConfig, runs: Path) -> ProgressList:
    progress = ProgressList()
    pretrain.run(config, RunContext(DirectoryCheckpoints(runs), progress))
    return progress


def test_the_loss_falls_and_the_directory_is_a_model(
    config: PretrainConfig, tmp_path: Path
) -> None:
    steps = train(config, tmp_path / "run").steps
    assert steps[-1].metrics["loss"] < 0.6 * steps[0].metrics["loss"]
    assert all(step.metrics["tokens_per_second"] > 0 for step in steps)
    assert steps[0].metrics["memory_bytes"] > 1 << 20
    measured = {
        step.step: step.metrics["bits_per_byte"]
        for step in steps
        if "bits_per_byte" in step.metrics
    }
    assert list(measured) == [5, 10, 15]
    assert measured[15] < measured[5] < 8
    report = verify_manifest(config.output_directory).report
    assert report["bits_per_byte"] == measured[15]
    assert load_decoder(config.output_directory).config.vocab_size == 280
    assert load_chat(config.output_directory).stop_ids == (2,)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_killed_run_resumes_with_the_same_bits(
    config: PretrainConfig, tmp_path: Path, algorithm: str
) -> None:
    config = replace(
        config, optimizer=replace(config.optimizer, algorithm=algorithm, schedule="wsd")
    )
    train(config, tmp_path / "straight")
    again = replace(config, output_directory=tmp_path / "again")
    with pytest.raises(Killed):
        pretrain.run(again, RunContext(KillAfter(tmp_path / "killed", 5), ProgressList()))
    train(again, tmp_path / "killed")
    one, other = (verify_manifest(d) for d in (config.output_directory, again.output_directory))
    assert one.files == other.files
    assert one.report == other.report


@pytest.mark.long
def test_a_process_killed_in_the_middle_of_a_step_ends_with_the_same_bits(
    config: PretrainConfig, tmp_path: Path
) -> None:
    straight = run_stage(StageRun("straight", pretrain.run, config), tmp_path / "runs")
    command = [sys.executable, "-m", pretrain_and_die.__name__, str(tmp_path), "8"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    newest = latest_complete(tmp_path / "runs" / "killed")
    assert newest is not None
    assert newest.name == "step-000005"
    again = replace(config, output_directory=tmp_path / "killed")
    resumed = run_stage(StageRun("killed", pretrain.run, again), tmp_path / "runs")
    assert resumed.files == straight.files
    assert resumed.report == straight.report


def gradient_of(
    config: PretrainConfig, microbatch_rows: int, decoder: Decoder
) -> tuple[float, list[nn.Parameter]]:
    data = pretrain.open_data(config)
    loss, tokens = pretrain.accumulate(
        decoder, data.train, range(8), microbatch_rows, plainly, ALONE
    )
    assert tokens == int(data.train.batch(range(8)).learned_BT.sum())
    return loss, list(decoder.parameters())


@pytest.mark.parametrize("packing", ["documents", "stream"])
def test_microbatches_do_not_change_the_gradient(config: PretrainConfig, packing: str) -> None:
    config = replace(config, packing=packing)
    found = []
    for rows in (8, 3):
        decoder = Decoder(parse_config(config.model_json))
        initialise(decoder, 1)
        found.append(gradient_of(config, rows, decoder))
    (loss, whole), (split_loss, split) = found
    assert split_loss == pytest.approx(loss, rel=1e-5)
    for one, other in zip(whole, split, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
    assert max(float(p.grad.abs().max()) for p in whole if p.grad is not None) > 1e-3


def test_activation_checkpointing_keeps_the_bits_of_a_run(
    config: PretrainConfig, tmp_path: Path
) -> None:
    train(config, tmp_path / "plain")
    again = replace(config, checkpoint_activations=True, output_directory=tmp_path / "again")
    train(again, tmp_path / "again-run")
    one, other = (
        verify_manifest(d).files["model.safetensors"]
        for d in (config.output_directory, tmp_path / "again")
    )
    assert one == other


def test_samples_are_stored_and_change_only_with_the_model(
    config: PretrainConfig, tmp_path: Path
) -> None:
    config = replace(config, samples=SampleConfig(("the tree", ""), max_tokens=8))
    run_stage(StageRun("run", pretrain.run, config), tmp_path / "runs")
    samples = read_samples(tmp_path / "runs" / "run" / SAMPLES)
    assert [(sample.step, sample.prompt) for sample in samples] == [
        (step, prompt) for step in (5, 10, 15) for prompt in ("the tree", "")
    ]
    assert samples[0].text != samples[-2].text
    decoder = load_decoder(config.output_directory)
    again = list(
        pretrain.write_samples(decoder, pretrain.open_data(config), 15, config, nullcontext)
    )
    assert again == samples[-2:]


def test_openings_of_held_out_texts_are_prompts(config: PretrainConfig) -> None:
    config = replace(config, samples=SampleConfig(("the tree",), openings=2, max_tokens=4))
    data = pretrain.open_data(config)
    decoder = Decoder(parse_config(config.model_json))
    initialise(decoder, 0)
    written = list(pretrain.write_samples(decoder, data, 0, config, nullcontext))
    assert written[0].prompt == "the tree"
    assert 1 <= len(written[1:]) <= 2
    begins, chat = data.held_out.stream.token_begins, load_chat(config.tokenizer_directory)
    held_out = [
        chat.decode(data.held_out.stream.read(begin, end).tolist())
        for begin, end in pairwise(begins[:3])
    ]
    for sample in written[1:]:
        assert any(text.startswith(sample.prompt) for text in held_out)
        assert len(sample.prompt.split()) <= 4


def test_a_non_finite_loss_stops_the_run_and_keeps_the_checkpoint(
    config: PretrainConfig, tmp_path: Path
) -> None:
    far = OptimizerConfig(learning_rate=1e30, warmup_fraction=0.0)
    config = replace(config, optimizer=far, checkpoint_every_steps=1, evaluate_every_steps=None)
    with refused(NonFiniteError, field="gradient", reason="NOT_FINITE"):
        train(config, tmp_path / "run")
    kept = latest_complete(tmp_path / "run")
    assert kept is not None
    assert kept.name == "step-000001"
    assert not config.output_directory.exists()


@pytest.mark.parametrize(
    ("field", "value", "reason", "limit"),
    [
        ("context_tokens", 100_000, "OUT_OF_RANGE", "in [2, 2048]"),
        ("microbatch_rows", 0, "OUT_OF_RANGE", "at least 1"),
        ("steps", 0, "OUT_OF_RANGE", "at least 1"),
        ("packing", "best", "UNKNOWN", ", ".join(PACKINGS)),
    ],
)
def test_invalid_settings_are_refused(
    config: PretrainConfig, field: str, value: object, reason: str, limit: str
) -> None:
    with refused(ConfigError, field=field, reason=reason, limit=limit):
        replace(config, **{field: value})  # type: ignore[arg-type]


def without_begin(config: PretrainConfig, shards: Path, held_out_fraction: float) -> PretrainConfig:
    """Return a config with shards of the same texts without a start token."""
    write_shards(
        ShardConfig(
            sources=(shards.parent / "texts.jsonl",),
            tokenizer_directory=config.tokenizer_directory,
            output_directory=shards,
            held_out_fraction=held_out_fraction,
            begin_documents=False,
        )
    )
    return replace(config, shards_directory=shards)


def test_data_that_does_not_fit_the_config_is_refused(
    config: PretrainConfig, tmp_path: Path
) -> None:
    with refused(
        ConfigError, field="model_json.vocab_size", reason="TOO_SMALL", limit="at least 280"
    ):
        pretrain.open_data(replace(config, model_json=llama_json(200, 32, 2, 4, 2, 64)))
    none_held_out = without_begin(config, tmp_path / "none-held-out", held_out_fraction=0.0)
    with refused(ConfigError, field="evaluate_every_steps", reason="EMPTY"):
        pretrain.open_data(none_held_out)
    with refused(ConfigError, field="samples.prompts", reason="EMPTY"):
        pretrain.open_data(
            replace(none_held_out, evaluate_every_steps=None, samples=SampleConfig(("",)))
        )
    tokens = open_shards(tmp_path / "none-held-out", config.tokenizer_directory).train.tokens
    longer = llama_json(280, 32, 2, 4, 2, 64) | {"max_position_embeddings": 1 << 20}
    short = replace(
        none_held_out,
        evaluate_every_steps=None,
        packing="stream",
        model_json=longer,
        context_tokens=1 << 18,
    )
    with refused(
        ConfigError, field="context_tokens", reason="TOO_LARGE", limit=f"at most {tokens}"
    ):
        pretrain.open_data(short)


def test_bits_per_byte_need_a_start_token(config: PretrainConfig, tmp_path: Path) -> None:
    unbegun = without_begin(config, tmp_path / "no-begin", held_out_fraction=0.15)
    with refused(ConfigError, field="evaluate_every_steps", reason="CONFLICT"):
        pretrain.open_data(unbegun)
    assert pretrain.open_data(replace(unbegun, evaluate_every_steps=None)).begin_ids == ()


def test_a_tokenizer_other_than_the_shards_is_refused(
    config: PretrainConfig, tmp_path: Path
) -> None:
    train_tokenizer(["something else"], 270, tmp_path / "other")
    with refused(ShardError, field="tokenizer_directory", reason="MISMATCH"):
        train(replace(config, tokenizer_directory=tmp_path / "other"), tmp_path / "run")


def test_a_checkpoint_of_another_model_is_refused(config: PretrainConfig, tmp_path: Path) -> None:
    train(replace(config, steps=10), tmp_path / "run")
    other = replace(
        config, output_directory=tmp_path / "other", model_json=llama_json(280, 48, 2, 4, 2, 64)
    )
    with refused(ManifestError, field="step-000010", reason="MISMATCH"):
        train(other, tmp_path / "run")


def test_training_in_bfloat16_learns(config: PretrainConfig, tmp_path: Path) -> None:
    config = replace(config, machine=Machine(threads=1, dtype="bfloat16"))
    steps = train(config, tmp_path / "run").steps
    assert steps[-1].metrics["loss"] < 0.6 * steps[0].metrics["loss"]
