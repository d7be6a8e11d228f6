"""SFT: training data, outputs and resumption after a kill."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from chat_format.tokenizer_check import read_token_ids, token_ids
from tests.support.errors import refused
from tests.training.closeness import Closeness
from tests.training.toys import (
    KillAfter,
    Killed,
    ProgressList,
    sft_rows,
    toy_model,
    user,
    write_lines,
)
from training.artifacts.manifest import verify_manifest
from training.data.chat import load_chat
from training.data.formats.fields import ExampleError
from training.data.tensors import microbatches, response_batch
from training.errors import ConfigError
from training.losses.log_probs import batch_loss
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, save_decoder
from training.model.config import gpt2_json, parse_config
from training.model.lora import LoraConfig, load_adapter, merge_adapter
from training.model.transformer import Decoder, initialise
from training.optim.gradients import NonFiniteError
from training.optim.optimizers import OptimizerConfig
from training.runtime.context import Lineage, Machine, RunContext, Sample
from training.runtime.machine import use_device
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints, latest_complete
from training.stages import sft
from training.stages.sft import SftConfig

LORA = LoraConfig(rank=4)


@pytest.fixture
def config(tmp_path: Path, machine: Machine) -> SftConfig:
    return SftConfig(
        model_directory=toy_model(tmp_path / "first"),
        data_path=write_lines(tmp_path / "sft.jsonl", sft_rows(48)),
        output_directory=tmp_path / "second",
        lineage=Lineage(
            version="second", snapshot="snap", snapshot_sha256="ab", code_commit="c0ffee"
        ),
        epochs=2,
        batch_rows=8,
        microbatch_rows=4,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        held_out_fraction=0.2,
        checkpoint_every_steps=5,
        machine=machine,
    )


def run(config: SftConfig, runs: Path, progress: ProgressList | None = None) -> None:
    sft.run(config, RunContext(DirectoryCheckpoints(runs), progress or ProgressList()))
    use_device("cpu")


def test_training_learns_and_writes_a_model_with_manifest(
    config: SftConfig, tmp_path: Path
) -> None:
    progress = ProgressList()
    run(config, tmp_path / "run", progress)
    manifest = verify_manifest(config.output_directory)
    report = manifest.report
    assert report["held_out_loss"] < 0.7 * report["held_out_loss_before"]
    assert (manifest.kind, manifest.version, manifest.parents) == ("model", "second", ("first",))
    assert manifest.data == {"snapshot": "snap", "sha256": "ab"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= set(
        manifest.files
    )
    assert read_token_ids(config.output_directory) == token_ids(config.output_directory)
    assert [p.step for p in progress.steps] == list(range(1, 11))
    assert all(p.total_steps == 10 for p in progress.steps)


@pytest.mark.parametrize("rows", [None, 40])
def test_held_out_answers_are_sampled_before_and_after_training(
    config: SftConfig, tmp_path: Path, rows: int | None
) -> None:
    config = replace(config, lora=LORA if rows else None, vocabulary_rows=rows, epochs=6)
    shown: list[Sample] = []
    sft.run(
        config,
        RunContext(DirectoryCheckpoints(tmp_path / "run"), ProgressList(), samples=shown.append),
    )
    assert [sample.step for sample in shown] == [0] * sft.SHOWN_PROMPTS + [
        shown[-1].step
    ] * sft.SHOWN_PROMPTS
    chat = load_chat(config.model_directory)
    held_out = sft.read_examples(config, chat).held_out
    assert {sample.prompt for sample in shown} <= {
        chat.decode(example.prompt) for example in held_out
    }
    before, after = (
        [sample.text for sample in shown if sample.step == step] for step in (0, shown[-1].step)
    )
    assert before != after


def test_answers_end_at_the_last_learned_position(config: SftConfig, tmp_path: Path) -> None:
    chat = load_chat(config.model_directory)
    examples = sft.read_examples(config, chat)
    most = max(example.tokens for example in (*examples.train, *examples.held_out))
    known = load_decoder(config.model_directory).config.vocab_size
    decoder = Decoder(parse_config(gpt2_json(known, 32, 2, 4, max_positions=most)))
    initialise(decoder, 1)
    save_decoder(decoder, tmp_path / "learned", companions_from=config.model_directory)
    shown: list[Sample] = []
    context = RunContext(
        DirectoryCheckpoints(tmp_path / "run"), ProgressList(), samples=shown.append
    )
    sft.run(replace(config, model_directory=tmp_path / "learned", max_tokens=most), context)
    assert len(shown) == 2 * sft.SHOWN_PROMPTS


@pytest.mark.parametrize("lora", [pytest.param(None, marks=pytest.mark.long), LORA])
def test_a_killed_run_resumes_with_the_same_bits(
    config: SftConfig, tmp_path: Path, lora: LoraConfig | None, closeness: Closeness
) -> None:
    config, straight = replace(config, lora=lora), ProgressList()
    run(config, tmp_path / "straight", straight)
    killed = replace(config, output_directory=tmp_path / "third")
    with pytest.raises(Killed):
        sft.run(killed, RunContext(KillAfter(tmp_path / "killed", 5), ProgressList()))
    progress = ProgressList()
    run(killed, tmp_path / "killed", progress)
    assert progress.steps[0].step == 6
    closeness.check_steps(progress.steps, straight.steps[5:])
    one, other = (
        load_file(d / "model.safetensors")
        for d in (config.output_directory, killed.output_directory)
    )
    closeness.check_tensors(one, other, moved=5 * config.optimizer.learning_rate)
    reports = [
        verify_manifest(d).report for d in (config.output_directory, killed.output_directory)
    ]
    closeness.check_figures(*reports)


def test_the_merged_model_is_the_base_with_the_adapter(config: SftConfig, tmp_path: Path) -> None:
    run(replace(config, lora=LORA, vocabulary_rows=280), tmp_path / "run")
    decoder = load_decoder(config.model_directory)
    load_adapter(decoder, "sft", config.output_directory / "adapter")
    merge_adapter(decoder, "sft")
    merged = load_decoder(config.output_directory)
    for name, tensor in merged.state_dict().items():
        assert torch.equal(tensor, decoder.get_parameter(name))


def test_a_trimmed_vocabulary_learns_as_well(config: SftConfig, tmp_path: Path) -> None:
    run(
        replace(config, lora=LORA, optimizer=OptimizerConfig(learning_rate=2e-2)), tmp_path / "full"
    )
    trimmed = replace(
        config,
        lora=LORA,
        vocabulary_rows=290,
        output_directory=tmp_path / "trimmed",
        optimizer=OptimizerConfig(learning_rate=2e-2),
    )
    run(trimmed, tmp_path / "run")
    reports = [
        verify_manifest(d).report for d in (config.output_directory, trimmed.output_directory)
    ]
    assert reports[1]["held_out_loss"] == pytest.approx(reports[0]["held_out_loss"], rel=0.1)
    assert reports[0]["held_out_loss"] < reports[0]["held_out_loss_before"] - 0.2


def test_only_response_and_end_token_are_learned(config: SftConfig) -> None:
    chat = load_chat(config.model_directory)
    data = sft.read_examples(config, chat)
    example = data.train[0]
    batch = response_batch([example])
    learned = batch.ids_BT[batch.response_mask_BT.bool()].tolist()
    assert learned == list(example.response)
    assert learned[-1] == chat.end_id
    decoder = load_decoder(config.model_directory)
    with torch.no_grad():
        loss = batch_loss(Backbone(decoder), batch, weight_total=len(learned))
        log_probs = decoder.logits(decoder(batch.ids_BT)).log_softmax(-1)
    start = len(example.prompt)
    by_hand = -sum(log_probs[0, start - 1 + i, token] for i, token in enumerate(learned)) / len(
        learned
    )
    assert loss.item() == pytest.approx(float(by_hand), abs=1e-5)


def test_microbatches_do_not_change_the_gradient(config: SftConfig) -> None:
    data = sft.read_examples(config, load_chat(config.model_directory))
    gradients = []
    for rows in (2, 8):
        decoder = load_decoder(config.model_directory).requires_grad_(True)
        weight_total = sum(len(e.response) for e in data.train[:8])
        batches = microbatches(data.train[:8], rows)
        sft.accumulate(
            Backbone(decoder),
            batches,
            weight_total,
            lambda: torch.autocast("cpu", enabled=False),
            ALONE,
        )
        gradient = decoder.model.embed_tokens.weight.grad
        assert gradient is not None
        gradients.append(gradient)
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)
    assert gradients[0].abs().max() > 1e-3


def test_held_out_prompts_are_never_trained_on(config: SftConfig) -> None:
    rows = sft_rows(20) + sft_rows(20)  # each prompt twice
    write_lines(config.data_path, rows)
    data = sft.read_examples(config, load_chat(config.model_directory))
    assert len(data.held_out) == 8
    assert not {e.prompt for e in data.train} & {e.prompt for e in data.held_out}


def test_long_examples_are_dropped_and_counted(config: SftConfig) -> None:
    write_lines(
        config.data_path, [*sft_rows(20), {"messages": user("x " * 200), "response": "y " * 400}]
    )
    data = sft.read_examples(config, load_chat(config.model_directory))
    assert data.dropped_too_long == 1
    assert len(data.train) + len(data.held_out) == 20


def test_examples_of_weight_zero_are_dropped_and_counted(config: SftConfig, tmp_path: Path) -> None:
    light = [row | {"weight": 0} for row in sft_rows(3)]
    write_lines(
        config.data_path,
        [*sft_rows(20), *light, {"messages": user("x " * 200), "response": "y " * 400}],
    )
    run(replace(config, epochs=1), tmp_path / "run")
    report = verify_manifest(config.output_directory).report
    assert (report["dropped_too_long"], report["dropped_weightless"]) == (1, 3)
    assert report["examples"] + report["held_out_examples"] == 20
    write_lines(config.data_path, light)
    with refused(ConfigError, field="weight", reason="EMPTY"):
        sft.read_examples(config, load_chat(config.model_directory))


def test_no_held_out_loss_without_held_out_examples(config: SftConfig, tmp_path: Path) -> None:
    progress = ProgressList()
    run(replace(config, epochs=1, held_out_fraction=0.0), tmp_path / "run", progress)
    told = [
        *verify_manifest(config.output_directory).report,
        *(name for p in progress.steps for name in p.metrics),
    ]
    assert not [name for name in told if name.startswith("held_out_loss")]


def test_a_finished_run_is_not_run_again(config: SftConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "run")
    progress = ProgressList()
    run(config, tmp_path / "run", progress)
    assert progress.steps == []


def test_a_non_finite_loss_stops_the_run_and_keeps_the_checkpoint(
    config: SftConfig, tmp_path: Path
) -> None:
    far = replace(
        config,
        checkpoint_every_steps=1,
        optimizer=OptimizerConfig(learning_rate=1e30, warmup_fraction=0.0),
    )
    with refused(NonFiniteError, field="gradient", reason="NOT_FINITE"):
        run(far, tmp_path / "run")
    kept = latest_complete(tmp_path / "run")
    assert kept is not None
    assert kept.name == "step-000001"
    assert not config.output_directory.exists()


def test_settings_that_cannot_work_together_are_refused(config: SftConfig) -> None:
    with refused(ConfigError, field="vocabulary_rows", reason="CONFLICT"):
        replace(config, vocabulary_rows=100)


@pytest.mark.parametrize(
    ("row", "field", "reason"),
    [
        ({"messages": [], "response": "x"}, "messages", "EMPTY"),
        ({"messages": user("a")}, "response", "MISSING"),
        ({"messages": user("a"), "response": "b", "weight": -1}, "weight", "OUT_OF_RANGE"),
        (
            {"messages": [{"role": "robot", "content": "a"}], "response": "b"},
            "messages",
            "UNKNOWN",
        ),
    ],
)
def test_a_bad_line_is_named_by_line_and_field(
    config: SftConfig, row: dict[str, object], field: str, reason: str
) -> None:
    write_lines(config.data_path, [row])
    with refused(ExampleError, field=f"{config.data_path.name}:1:{field}", reason=reason):
        sft.read_examples(config, load_chat(config.model_directory))
