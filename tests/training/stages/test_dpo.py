"""DPO from files to files.

Tests cover learning, splits by prompt, bitwise resumption, and the stop after a collapse.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.errors import refused
from tests.training.rl.toy_preferences import Half, gradients, toy_dpo, toy_models, toy_pairs
from tests.training.stages.killed import check_same_bits_after_a_kill
from tests.training.stages.rows import pair_rows
from tests.training.toys import (
    ProgressList,
    kept_tensors,
    toy_model,
    write_lines,
)
from training.artifacts.manifest import verify_manifest
from training.data.chat import load_chat
from training.data.tensors import response_batch
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.rl.reference import WatchConfig
from training.runtime.context import Lineage, Machine, RunContext, Sample
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import dpo
from training.stages.dpo import DpoConfig
from training.stages.preference_loop import SHOWN_PROMPTS

LORA = LoraConfig(rank=4)
SIDES = ("chosen", "rejected")


@pytest.fixture
def config(tmp_path: Path) -> DpoConfig:
    return DpoConfig(
        model_directory=toy_model(tmp_path / "first"),
        data_path=write_lines(tmp_path / "pairs.jsonl", pair_rows(160, noise=0.0)),
        output_directory=tmp_path / "second",
        lineage=Lineage("second", snapshot="snap", snapshot_sha256="ab", code_commit="c0ffee"),
        batch_pairs=16,
        microbatch_pairs=8,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        watch=WatchConfig(prompts=4, max_response_tokens=8, length_floor_fraction=0.0),
        checkpoint_every_steps=5,
        machine=Machine(threads=1),
    )


def run(config: DpoConfig, runs: Path, progress: ProgressList | None = None) -> dict[str, Any]:
    dpo.run(config, RunContext(DirectoryCheckpoints(runs), progress or ProgressList()))
    return dict(verify_manifest(config.output_directory).report)


def no_autocast() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


@pytest.mark.parametrize("lora", [None, LORA])
def test_training_learns_preferences_and_writes_a_model_directory(
    config: DpoConfig, tmp_path: Path, lora: LoraConfig | None
) -> None:
    progress = ProgressList()
    report = run(
        replace(config, lora=lora, optimizer=OptimizerConfig(learning_rate=1e-2)),
        tmp_path / "run",
        progress,
    )
    manifest = verify_manifest(config.output_directory)
    assert report["held_out_accuracy"] > 0.95
    assert report["held_out_margin"] > 0.1
    assert (report["exported_step"], report["stopped_because"]) == (9, "")
    assert report["label_noise_ceiling"] is None
    assert (manifest.kind, manifest.version, manifest.parents) == ("model", "second", ("first",))
    assert manifest.data == {"snapshot": "snap", "sha256": "ab"}
    before, after = (
        load_file(d / "model.safetensors")
        for d in (config.model_directory, config.output_directory)
    )
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert (config.output_directory / "adapter").is_dir() == (lora is not None)
    assert progress.steps[0].metrics["loss"] == pytest.approx(
        0.6931, abs=1e-4
    )  # the policy is its reference
    assert {"held_out_accuracy", "response_tokens", "kl"} <= set(progress.steps[4].metrics)


@pytest.mark.parametrize("rows", [None, 40])
def test_held_out_answers_are_sampled_before_and_after_training(
    config: DpoConfig, tmp_path: Path, rows: int | None
) -> None:
    lora = LORA if rows else None
    config = replace(
        config, lora=lora, vocabulary_rows=rows, optimizer=OptimizerConfig(learning_rate=1e-2)
    )
    shown: list[Sample] = []
    dpo.run(
        config,
        RunContext(DirectoryCheckpoints(tmp_path / "run"), ProgressList(), samples=shown.append),
    )
    steps = [sample.step for sample in shown]
    assert (steps.count(0), steps[0], steps[-1]) == (SHOWN_PROMPTS, 0, 9)
    chat = load_chat(config.model_directory)
    held_out = {
        chat.decode(pair.chosen.prompt)
        for pair in dpo.read_data(replace(config, vocabulary_rows=None), chat).held_out
    }
    assert {sample.prompt for sample in shown} <= held_out
    before, after = ({s.prompt: s.text for s in shown if s.step == step} for step in (0, 9))
    assert before.keys() == after.keys()
    assert before != after


@pytest.mark.parametrize("lora", [pytest.param(None, marks=pytest.mark.long), LORA])
def test_a_killed_run_resumes_with_the_same_bits(
    config: DpoConfig, tmp_path: Path, lora: LoraConfig | None
) -> None:
    check_same_bits_after_a_kill(dpo, replace(config, lora=lora), tmp_path)


def test_trimmed_vocabulary_learns_the_same_and_keeps_the_embedding(
    config: DpoConfig, tmp_path: Path
) -> None:
    report = run(replace(config, lora=LORA, vocabulary_rows=290), tmp_path / "run")
    assert report["held_out_accuracy"] > 0.7
    merged, base = (
        load_file(d / "model.safetensors")
        for d in (config.output_directory, config.model_directory)
    )
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


def test_split_is_by_prompt_and_label_noise_sets_the_ceiling(config: DpoConfig) -> None:
    write_lines(config.data_path, pair_rows(100, noise=0.2, repeats=4))
    pairs = dpo.read_data(config, load_chat(config.model_directory))
    assert (len(pairs.train), len(pairs.held_out)) == (360, 40)
    asked = [{pair.chosen.prompt for pair in part} for part in (pairs.train, pairs.held_out)]
    assert len(asked[1]) == 10
    assert not asked[0] & asked[1]
    assert pairs.label_noise == pytest.approx(0.2, abs=0.06)


def test_both_sides_of_a_pair_share_the_prompt_and_end(config: DpoConfig) -> None:
    chat = load_chat(config.model_directory)
    pair = dpo.read_data(config, chat).train[0]
    assert pair.chosen.prompt == pair.rejected.prompt
    assert {pair.chosen.response[-1], pair.rejected.response[-1]} == {chat.end_id}


def test_a_pair_with_one_long_response_is_dropped_and_counted(config: DpoConfig) -> None:
    rows = pair_rows(20, noise=0.0)
    rows[0]["rejected"] = "tree " * 600
    write_lines(config.data_path, rows)
    pairs = dpo.read_data(config, load_chat(config.model_directory))
    assert (len(pairs.train) + len(pairs.held_out), pairs.dropped_too_long) == (19, 1)


def test_ties_and_equal_texts_are_dropped_and_counted(config: DpoConfig, tmp_path: Path) -> None:
    rows = pair_rows(40, noise=0.0)
    undecided = [
        *(row | {"tie": True} for row in rows[:5]),
        *(row | {"rejected": row["chosen"]} for row in rows[:7]),
    ]
    write_lines(config.data_path, [*rows, *undecided])
    report = run(config, tmp_path / "run")
    assert report["train_pairs"] + report["held_out_pairs"] == 40
    assert (report["dropped_ties"], report["dropped_equal"], report["dropped_too_long"]) == (
        5,
        7,
        0,
    )
    write_lines(config.data_path, undecided)
    with refused(ConfigError, field="data_path", reason="EMPTY"):
        dpo.read_data(config, load_chat(config.model_directory))


def test_log_ratios_are_in_the_order_chosen_then_rejected() -> None:
    """Accuracy alone cannot reveal swapped sides: held-out pairs would be swapped too."""
    models, pairs = toy_models(), toy_pairs(32, 0.0).train[:5]
    with torch.no_grad():
        for parameter in models.policy.decoder.parameters():
            parameter.mul_(3.0)
        found = dpo.log_ratios(models, pairs)
        wanted = [
            models.log_ratios(response_batch([getattr(pair, side) for pair in pairs]))
            for side in SIDES
        ]
    for ratios_B, wanted_B in zip(found, wanted, strict=True):
        assert torch.allclose(ratios_B, wanted_B, atol=1e-4)
    assert (wanted[0] - wanted[1]).abs().min() > 1e-2


def test_margins_count_only_with_a_margin_weight() -> None:
    pairs = [replace(pair, margin=0.8) for pair in toy_pairs(32, 0.0).train[:4]]

    def loss(**changes: object) -> float:
        config = toy_dpo(batch_pairs=4, **changes)
        return dpo.accumulate(toy_models(), pairs, config, no_autocast, ALONE)["loss"]

    assert loss() == pytest.approx(0.6931, abs=1e-4)
    assert loss(margin_weight=1.0) == pytest.approx(1.1711, abs=1e-3)  # log(1 + exp(0.8))


def test_pairs_keep_their_weight_from_the_file_to_the_loss(
    config: DpoConfig, tmp_path: Path
) -> None:
    rows = [row | {"weight": 0.25} for row in pair_rows(8, noise=0.0)]
    data = dpo.read_data(
        replace(config, data_path=write_lines(tmp_path / "w.jsonl", rows)),
        load_chat(config.model_directory),
    )
    assert {pair.weight for pair in (*data.train, *data.held_out)} == {0.25}
    pairs = toy_pairs(32, 0.0).train[:4]
    losses = [
        dpo.accumulate(
            toy_models(),
            [replace(pair, weight=weight) for pair in pairs],
            toy_dpo(batch_pairs=4),
            no_autocast,
            ALONE,
        )["loss"]
        for weight in (1.0, 0.25)
    ]
    assert losses[1] == pytest.approx(losses[0] / 4)


def test_neither_microbatches_nor_workers_change_the_gradient() -> None:
    pairs = toy_pairs(32, 0.0).train[:9]
    whole, parts = (
        toy_dpo(batch_pairs=9, microbatch_pairs=9),
        toy_dpo(batch_pairs=9, microbatch_pairs=2),
    )
    found = []
    for config, workers in ((whole, [ALONE]), (parts, [ALONE]), (parts, [Half(0), Half(1)])):
        models = toy_models()
        for ranks in workers:
            dpo.accumulate(models, ranks.share(pairs), config, no_autocast, ranks)
        found.append(gradients(models))
    for others in found[1:]:
        assert all(
            torch.allclose(one, other, atol=1e-6)
            for one, other in zip(found[0], others, strict=True)
        )
    assert max(float(gradient.abs().max()) for gradient in found[0]) > 1e-4


def test_a_collapse_stops_training_and_restores_healthy_weights(tmp_path: Path) -> None:
    models, pairs = toy_models(), toy_pairs(128, 0.0)
    config = toy_dpo(
        watch=WatchConfig(prompts=16, max_response_tokens=12, kl_ceiling_nats=0.5),
        checkpoint_every_steps=1,
        epochs=8,
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )
    progress = ProgressList()
    context = RunContext(DirectoryCheckpoints(tmp_path), progress)
    numbers, reason = dpo.train(models, pairs, config, context, no_autocast)
    stopped_at = progress.steps[-1].step
    assert progress.steps[-1].metrics["kl"] > 0.5
    assert re.findall(r"\d+(?:\.\d+)?", reason) == [
        str(stopped_at),
        f"{progress.steps[-1].metrics['kl']:.2f}",
        "0.5",
    ]
    assert numbers["step"] == stopped_at - 1
    assert numbers["kl"] <= 0.5
    stored = kept_tensors(tmp_path / f"step-{stopped_at - 1:06d}")
    weights = models.policy.decoder.named_parameters()
    assert all(torch.equal(weight, stored[f"parameters/model/{name}"]) for name, weight in weights)


def test_a_finished_run_is_not_run_again(config: DpoConfig, tmp_path: Path) -> None:
    run(config, tmp_path / "run")
    progress = ProgressList()
    run(config, tmp_path / "run", progress)
    assert progress.steps == []


@pytest.mark.parametrize(
    ("change", "field", "reason", "limit"),
    [
        ({"beta": 0.0}, "beta", "OUT_OF_RANGE", "above 0 and finite"),
        ({"label_smoothing": 0.5}, "label_smoothing", "OUT_OF_RANGE", "in [0, 0.5)"),
        ({"margin_weight": -1.0}, "margin_weight", "OUT_OF_RANGE", "at least 0 and finite"),
        ({"label_noise": 0.7}, "label_noise", "OUT_OF_RANGE", "in [0, 0.5)"),
        ({"vocabulary_rows": 9}, "vocabulary_rows", "CONFLICT", ""),
    ],
)
def test_settings_that_cannot_run_are_refused(
    config: DpoConfig, change: dict[str, Any], field: str, reason: str, limit: str
) -> None:
    with refused(ConfigError, field=field, reason=reason, limit=limit):
        replace(config, **change)


def test_at_least_one_prompt_is_held_out_of_two(config: DpoConfig) -> None:
    chat = load_chat(config.model_directory)
    pairs = dpo.read_data(replace(config, held_out_fraction=0.001), chat)
    assert len(pairs.held_out) == 1
    write_lines(config.data_path, pair_rows(1, noise=0.0))
    with refused(ConfigError, field="data_path", reason="EMPTY", limit="at least 2"):
        dpo.read_data(config, chat)
