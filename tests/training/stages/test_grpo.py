"""GRPO from files to files, and PPO with a verifier.

Tests cover loaded models, refusals, training data and outputs.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.errors import refused
from tests.training.closeness import ONE_UPDATE, Closeness
from tests.training.stages.rows import pair_rows
from tests.training.toys import (
    WORDS,
    KillAfter,
    Killed,
    ProgressList,
    kept_tensors,
    sft_rows,
    toy_model,
    user,
    write_lines,
)
from training.artifacts.manifest import Manifest, verify_manifest
from training.data.chat import load_chat
from training.errors import ConfigError
from training.losses.policy import Normalisation
from training.model.backbone import Backbone
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.rl import rollout
from training.rl.networks import open_networks
from training.rl.rollout import Rollout, states_before_response
from training.rl.scores import Answer
from training.runtime.context import Lineage, Machine, RunContext, Sample
from training.runtime.machine import use_device
from training.runtime.ranks import Ranks
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import grpo, ppo, reward_model
from training.stages.grpo import GrpoConfig
from training.stages.policy_config import SftMix
from training.stages.policy_inputs import network_sources, read_data
from training.stages.policy_loop import check_shares
from training.stages.ppo import PpoConfig
from training.stages.reward_model import RewardModelConfig

LORA = LoraConfig(rank=4)


def short(answers: Sequence[Answer]) -> list[float]:
    """Score short texts higher, and more so if the task of the prompt asks for them."""
    return [-len(answer.text) * float(answer.task) for answer in answers]


@pytest.fixture
def config(tmp_path: Path, machine: Machine) -> GrpoConfig:
    rows = [
        {"messages": user(f"{word} {i}"), "task": f"{1 + i % 2}"}
        for i, word in enumerate(WORDS * 2)
    ]
    return GrpoConfig(
        model_directory=toy_model(tmp_path / "first"),
        reward_model_directory=None,
        data_path=write_lines(tmp_path / "prompts.jsonl", rows),
        output_directory=tmp_path / "second",
        lineage=Lineage("second"),
        updates=6,
        prompts_per_update=4,
        samples_per_prompt=4,
        minibatch_rows=8,
        max_response_tokens=8,
        policy_optimizer=OptimizerConfig(learning_rate=2e-3),
        checkpoint_every_updates=3,
        length_floor_fraction=0.0,
        machine=machine,
    )


def run(config: GrpoConfig, runs: Path, progress: ProgressList | None = None) -> Manifest:
    grpo.run(config, RunContext(DirectoryCheckpoints(runs), progress or ProgressList()), short)
    use_device("cpu")
    return verify_manifest(config.output_directory)


@pytest.mark.parametrize(
    ("lora", "changes"),
    [
        (LORA, {"filter_zero_variance": True}),
        (None, {"minibatch_rows": 16, "epochs_per_update": 1}),
        pytest.param(None, {"filter_zero_variance": True}, marks=pytest.mark.long),
        pytest.param(LORA, {"minibatch_rows": 16, "epochs_per_update": 1}, marks=pytest.mark.long),
    ],
)
def test_a_killed_run_resumes_with_the_same_bits(
    config: GrpoConfig,
    tmp_path: Path,
    lora: LoraConfig | None,
    changes: dict[str, Any],
    closeness: Closeness,
) -> None:
    config = replace(config, lora=lora, **changes)
    straight, resumed = ProgressList(), ProgressList()
    first = run(config, tmp_path / "straight", straight)
    again = replace(config, output_directory=tmp_path / "again")
    with pytest.raises(Killed):
        grpo.run(again, RunContext(KillAfter(tmp_path / "killed", 3), ProgressList()), short)
    second = run(again, tmp_path / "killed", resumed)
    closeness.check_steps(resumed.steps, straight.steps[3:])
    closeness.check_policy_report(first.report, second.report)
    # At most two epochs over two minibatches in each of three updates.
    moved = 12 * config.policy_optimizer.learning_rate
    folders = (config.output_directory, again.output_directory)
    closeness.check_tensors(*(load_file(d / "model.safetensors") for d in folders), moved)
    states = [kept_tensors(tmp_path / name / "step-000006") for name in ("straight", "killed")]
    closeness.check_tensors(states[0], states[1], moved)


@pytest.mark.parametrize(
    "changes", [{}, {"lora": LORA}, {"checkpoint_activations": True}, {"dtype": "bfloat16"}]
)
def test_a_one_step_update_reuses_the_log_probs_of_scoring(
    config: GrpoConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    """As one of several steps, the same update runs the policy twice."""
    dtype = changes.get("dtype", config.machine.dtype)
    changes = {name: value for name, value in changes.items() if name != "dtype"}
    config, near = replace(config, machine=replace(config.machine, dtype=dtype)), ONE_UPDATE[dtype]
    once = {
        "minibatch_rows": 16,
        "epochs_per_update": 1,
        "kl_coefficient": 0.0,
        "kl_ceiling_nats": None,
    }
    one, two = (
        replace(config, updates=2, output_directory=tmp_path / to, **once, **changes)
        for to in ("one", "two")
    )
    read: list[Backbone] = []

    def counted(backbone: Backbone, sampled: Rollout) -> torch.Tensor:
        read.append(backbone)
        return states_before_response(backbone, sampled)

    monkeypatch.setattr(rollout, "states_before_response", counted)
    found = []
    for settings, times in ((one, 2), (two, 4)):
        monkeypatch.setattr(GrpoConfig, "is_one_step", settings is one)
        progress = ProgressList()
        read.clear()
        run(settings, tmp_path / settings.output_directory.name / "runs", progress)
        found.append([step.metrics for step in progress.steps])
        assert len(read) == times
    for mine, plain in zip(*found, strict=True):
        assert mine["minibatches"] == plain["minibatches"] == 1
        assert mine == pytest.approx(plain, rel=10 * near, abs=near)
    weights = [
        load_file(settings.output_directory / "model.safetensors") for settings in (one, two)
    ]
    assert all(torch.allclose(weights[0][name], weights[1][name], atol=near) for name in weights[0])


def test_is_one_step_requires_one_pass_over_unmasked_rows(config: GrpoConfig) -> None:
    """The graph of masked rows would be computed backwards without effect."""
    one = replace(config, minibatch_rows=16, epochs_per_update=1)
    assert one.is_one_step
    others: list[dict[str, Any]] = [{"minibatch_rows": 8}, {"epochs_per_update": 2}]
    others += [{"filter_zero_variance": True}, {"mask_missing_eos": True}]
    assert not any(replace(one, **changes).is_one_step for changes in others)


def test_samples_are_reported_with_their_scores(config: GrpoConfig, tmp_path: Path) -> None:
    told: list[Sample] = []
    context = RunContext(
        DirectoryCheckpoints(tmp_path / "run"), ProgressList(), samples=told.append
    )
    grpo.run(config, context, short)
    assert [sample.step for sample in told] == [3] * 4 + [6] * 4
    assert len({sample.prompt for sample in told[:4]}) == 4
    assert all(sample.score in (-len(sample.text), -2 * len(sample.text)) for sample in told)
    assert any(word in sample.prompt for sample in told for word in WORDS)


def test_training_changes_the_model_and_reports_all_figures(
    config: GrpoConfig, tmp_path: Path
) -> None:
    progress = ProgressList()
    manifest = run(replace(config, importance_cap=2.0), tmp_path / "run", progress)
    assert (manifest.kind, manifest.parents) == ("model", ("first",))
    assert manifest.report["exported_update"] == 6
    before, after = (
        load_file(d / "model.safetensors")
        for d in (config.model_directory, config.output_directory)
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert set(progress.steps[0].metrics) == {
        "approximate_kl",
        "clip_fraction",
        "entropy",
        "eos_rate",
        "gradient_norm",
        "importance",
        "importance_capped",
        "kl",
        "learning_rate",
        "masked_responses",
        "minibatches",
        "policy_loss",
        "reference_loss",
        "response_tokens",
        "reward",
        "sampler_kl",
        "sampler_mismatch",
        "score",
        "tokens",
        "zero_variance_groups",
    }
    assert progress.steps[0].metrics["importance"] == pytest.approx(1.0, abs=1e-4)


def test_a_reward_model_can_give_the_scores(config: GrpoConfig, tmp_path: Path) -> None:
    reward_model.run(
        RewardModelConfig(
            model_directory=config.model_directory,
            data_path=write_lines(tmp_path / "pairs.jsonl", pair_rows(40, noise=0.0)),
            output_directory=tmp_path / "reward",
            lineage=Lineage("reward"),
            lora=LORA,
            machine=config.machine,
        ),
        RunContext(DirectoryCheckpoints(tmp_path / "reward-run"), ProgressList()),
    )
    progress = ProgressList()
    judged = replace(
        config,
        reward_model_directory=tmp_path / "reward",
        lora=LORA,
        vocabulary_rows=290,
        updates=2,
        judge_directory=tmp_path / "reward",
        judge_base_directory=config.model_directory,
    )
    manifest = grpo.run(judged, RunContext(DirectoryCheckpoints(tmp_path / "run"), progress))
    assert manifest.parents == ("first", "reward")
    for step in progress.steps:  # here the judge is the reward model, with full ids
        assert step.metrics["gold_score"] == pytest.approx(step.metrics["score"], abs=1e-4)


@pytest.mark.parametrize("lora", [None, LORA])
def test_ppo_with_a_verifier_starts_with_a_zero_critic(
    config: GrpoConfig, tmp_path: Path, lora: LoraConfig | None
) -> None:
    progress = ProgressList()
    settings = PpoConfig(
        model_directory=config.model_directory,
        reward_model_directory=None,
        data_path=config.data_path,
        output_directory=config.output_directory,
        lineage=config.lineage,
        updates=2,
        prompts_per_update=4,
        minibatch_rows=4,
        max_response_tokens=8,
        lora=lora,
        machine=config.machine,
    )
    ppo.run(settings, RunContext(DirectoryCheckpoints(tmp_path / "run"), progress), short)
    assert progress.steps[0].metrics["score"] < 0
    assert progress.steps[0].metrics["explained_variance"] == pytest.approx(0.0, abs=1e-6)
    assert progress.steps[1].metrics["explained_variance"] != 0.0
    assert verify_manifest(config.output_directory).parents == ("first",)


def test_scores_come_from_exactly_one_source(config: GrpoConfig, tmp_path: Path) -> None:
    context = RunContext(DirectoryCheckpoints(tmp_path / "run"), ProgressList())
    with refused(ConfigError, field="reward_model_directory", reason="MISSING"):
        grpo.run(config, context)
    with refused(ConfigError, field="reward_model_directory", reason="CONFLICT"):
        grpo.run(replace(config, reward_model_directory=tmp_path), context, short)


@pytest.mark.parametrize("lora", [None, LORA])
def test_without_a_kl_coefficient_no_reference_is_loaded(
    config: GrpoConfig, lora: LoraConfig | None
) -> None:
    made_of = network_sources(replace(config, lora=lora), None)
    assert open_networks(made_of, with_reference=False).reference is None
    with_reference = open_networks(made_of, with_reference=True)
    assert with_reference.reference is not None
    assert (with_reference.reference.decoder is with_reference.policy.decoder) == (lora is not None)


def test_kl_is_not_reported_without_a_reference(config: GrpoConfig, tmp_path: Path) -> None:
    progress = ProgressList()
    run(
        replace(config, kl_coefficient=0.0, kl_ceiling_nats=None, updates=1),
        tmp_path / "run",
        progress,
    )
    assert not {"kl", "reference_loss"} & set(progress.steps[0].metrics)


@pytest.mark.parametrize(
    ("changes", "field", "reason", "limit"),
    [
        (
            {"samples_per_prompt": 1, "minibatch_rows": 4},
            "samples_per_prompt",
            "OUT_OF_RANGE",
            "at least 2",
        ),
        ({"minibatch_rows": 7}, "minibatch_rows", "OUT_OF_RANGE", "4 or 2"),
        ({"minibatch_rows": 64}, "minibatch_rows", "OUT_OF_RANGE", "16 or 8"),
        (
            {"samples_per_prompt": 1, "minibatch_rows": 64},
            "samples_per_prompt",
            "OUT_OF_RANGE",
            "at least 2",
        ),
        (
            {"normalisation": Normalisation.CONSTANT, "standardise": False},
            "constant_tokens",
            "MISSING",
            "",
        ),
        ({"constant_tokens": 8}, "constant_tokens", "CONFLICT", ""),
        (
            {"normalisation": Normalisation.CONSTANT, "constant_tokens": 0, "standardise": False},
            "constant_tokens",
            "OUT_OF_RANGE",
            "at least 1",
        ),
        (
            {"normalisation": Normalisation.CONSTANT, "constant_tokens": 8},
            "standardise",
            "CONFLICT",
            "",
        ),
        ({"kl_coefficient": 0.0}, "kl_ceiling_nats", "CONFLICT", ""),
        (
            {"mask_missing_eos": True, "missing_eos_penalty": 1.0},
            "mask_missing_eos",
            "CONFLICT",
            "",
        ),
        ({"mask_missing_eos": True, "soft_overlong_tokens": 2}, "mask_missing_eos", "CONFLICT", ""),
        ({"soft_overlong_tokens": 8}, "soft_overlong_tokens", "TOO_LARGE", "below 8"),
        ({"kl_coefficient": -0.1}, "kl_coefficient", "OUT_OF_RANGE", "at least 0 and finite"),
        ({"clip_low": 1.0}, "clip_low", "OUT_OF_RANGE", "in (0, 1)"),
        ({"clip_high": 0.0}, "clip_high", "OUT_OF_RANGE", "above 0 and finite"),
        ({"updates": 0}, "updates", "OUT_OF_RANGE", "at least 1"),
        ({"temperature": 0.0}, "temperature", "OUT_OF_RANGE", "above 0 and finite"),
        ({"importance_cap": 0.5}, "importance_cap", "OUT_OF_RANGE", "at least 1"),
        ({"max_staleness_updates": 2}, "max_staleness_updates", "CONFLICT", ""),
        ({"judge_directory": Path("judge")}, "judge_base_directory", "MISSING", ""),
        ({"judge_base_directory": Path("base")}, "judge_directory", "MISSING", ""),
        ({"vocabulary_rows": 290}, "vocabulary_rows", "CONFLICT", ""),
    ],
)
def test_contradicting_settings_are_refused_by_name(
    config: GrpoConfig, changes: dict[str, Any], field: str, reason: str, limit: str
) -> None:
    with refused(ConfigError, field=field, reason=reason, limit=limit):
        replace(config, **changes)


def test_rows_that_workers_cannot_share_are_refused(config: GrpoConfig) -> None:
    check_shares(config, Ranks(0, 4, 0, 4))
    with refused(
        ConfigError, field="prompts_per_update", reason="OUT_OF_RANGE", limit="a multiple of 3"
    ):
        check_shares(config, Ranks(0, 3, 0, 3))
    with refused(ConfigError, field="sft_mix.rows", reason="OUT_OF_RANGE", limit="a multiple of 4"):
        check_shares(replace(config, sft_mix=SftMix(config.data_path, rows=6)), Ranks(0, 4, 0, 4))


def test_mixed_examples_are_learned_in_addition_to_the_reward(
    config: GrpoConfig, tmp_path: Path
) -> None:
    write_lines(tmp_path / "sft.jsonl", sft_rows(32))
    losses = {}
    for coefficient in (1e-6, 1.0):
        progress = ProgressList()
        mix = SftMix(tmp_path / "sft.jsonl", coefficient, rows=8)
        mixed = replace(
            config, sft_mix=mix, updates=6, output_directory=tmp_path / f"out-{coefficient}"
        )
        run(mixed, tmp_path / f"run-{coefficient}", progress)
        losses[coefficient] = [step.metrics["sft_loss"] / coefficient for step in progress.steps]
    assert losses[1.0][0] == pytest.approx(losses[1e-6][0], rel=0.2)
    assert losses[1.0][-1] < 0.8 * losses[1e-6][-1]


def test_mixed_examples_have_their_ids_in_a_trimmed_vocabulary(
    config: GrpoConfig, tmp_path: Path
) -> None:
    mix = SftMix(write_lines(tmp_path / "sft.jsonl", sft_rows(16)))
    trimmed = replace(config, sft_mix=mix, lora=LORA, vocabulary_rows=290)
    prompts = read_data(trimmed, load_chat(config.model_directory))
    whole = read_data(replace(trimmed, vocabulary_rows=None), load_chat(config.model_directory))
    assert prompts.vocabulary is not None
    assert tuple(prompts.vocabulary.widen(prompts.mixed[3].response)) == whole.mixed[3].response
    assert prompts.tasks == whole.tasks == ["1", "2"] * 8


def test_mixed_examples_that_are_too_long_are_refused(config: GrpoConfig, tmp_path: Path) -> None:
    mix = SftMix(
        write_lines(tmp_path / "sft.jsonl", [{"messages": user("tree " * 400), "response": "good"}])
    )
    with refused(ConfigError, field="sft_mix", reason="TOO_LARGE"):
        read_data(replace(config, sft_mix=mix), load_chat(config.model_directory))


def test_trimmed_ids_decode_to_the_original_text(config: GrpoConfig) -> None:
    trimmed = read_data(
        replace(config, lora=LORA, vocabulary_rows=100), load_chat(config.model_directory)
    )
    whole = read_data(config, load_chat(config.model_directory))
    assert trimmed.ids[3] != whole.ids[3]
    assert trimmed.decode(trimmed.ids[3]) == whole.decode(whole.ids[3]) != ""
