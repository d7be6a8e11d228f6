"""PPO from files to files: shared weights, bitwise resumption and reports."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.errors import refused
from tests.training.closeness import Closeness
from tests.training.rl.toy import sentiment, toy_config, toy_networks, train_ppo
from tests.training.stages.rows import pair_rows
from tests.training.toys import (
    VOCABULARY,
    WORDS,
    KillAfter,
    Killed,
    ProgressList,
    kept_tensors,
    toy_model,
    user,
    write_lines,
)
from training.artifacts.manifest import verify_manifest
from training.data.chat import load_chat
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.model.reward import RewardModelError
from training.optim.gradients import NonFiniteError
from training.optim.optimizers import OptimizerConfig
from training.parallelism import layout
from training.rl.advantages import KlConfig
from training.rl.networks import open_critic, open_networks
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.machine import use_device
from training.runtime.ranks import ALONE
from training.runtime.training_state import DirectoryCheckpoints, latest_complete
from training.stages import ppo, reward_model
from training.stages.policy_inputs import network_sources, open_gold, read_data
from training.stages.ppo import PpoConfig
from training.stages.reward_model import RewardModelConfig
from training.tokenization.byte_pairs import train_tokenizer

LORA = LoraConfig(rank=4)


@pytest.fixture(scope="module", params=["full", "lora"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, machine: Machine
) -> tuple[Path, LoraConfig | None]:
    """Return a folder with a model, `first`, and its reward model, `reward`."""
    directory = tmp_path_factory.mktemp(request.param)
    lora = LORA if request.param == "lora" else None
    reward_model.run(
        RewardModelConfig(
            model_directory=toy_model(directory / "first"),
            data_path=write_lines(directory / "pairs.jsonl", pair_rows(60, noise=0.0)),
            output_directory=directory / "reward",
            lineage=Lineage("reward"),
            optimizer=OptimizerConfig(learning_rate=3e-3),
            lora=lora,
            machine=machine,
        ),
        RunContext(DirectoryCheckpoints(directory / "reward-run"), ProgressList()),
    )
    use_device("cpu")
    return directory, lora


@pytest.fixture
def config(trained: tuple[Path, LoraConfig | None], tmp_path: Path, machine: Machine) -> PpoConfig:
    for part in ("first", "reward"):
        shutil.copytree(trained[0] / part, tmp_path / part)
    return PpoConfig(
        model_directory=tmp_path / "first",
        reward_model_directory=tmp_path / "reward",
        data_path=write_lines(
            tmp_path / "prompts.jsonl",
            [{"messages": user(f"{w} {i}")} for i, w in enumerate(WORDS * 2)],
        ),
        output_directory=tmp_path / "second",
        lineage=Lineage("second"),
        updates=6,
        prompts_per_update=8,
        minibatch_rows=4,
        max_response_tokens=8,
        kl=KlConfig(initial=0.05, target_nats=1.0, horizon_samples=100),
        policy_optimizer=OptimizerConfig(learning_rate=2e-3),
        critic_optimizer=OptimizerConfig(learning_rate=2e-3),
        lora=trained[1],
        checkpoint_every_updates=3,
        length_floor_fraction=0.0,
        machine=machine,
    )


def run(config: PpoConfig, runs: Path, progress: ProgressList | None = None) -> dict[str, Any]:
    ppo.run(config, RunContext(DirectoryCheckpoints(runs), progress or ProgressList()))
    use_device("cpu")
    return dict(verify_manifest(config.output_directory).report)


@pytest.mark.parametrize(
    "trained", [pytest.param("full", marks=pytest.mark.long), "lora"], indirect=True
)
def test_a_killed_run_resumes_with_the_same_bits(
    config: PpoConfig, tmp_path: Path, closeness: Closeness
) -> None:
    straight, resumed = ProgressList(), ProgressList()
    reports = [run(config, tmp_path / "straight", straight)]
    again = replace(config, output_directory=tmp_path / "again")
    with pytest.raises(Killed):
        ppo.run(again, RunContext(KillAfter(tmp_path / "killed", 3), ProgressList()))
    reports.append(run(again, tmp_path / "killed", resumed))
    assert [step.step for step in resumed.steps] == [4, 5, 6]
    closeness.check_steps(resumed.steps, straight.steps[3:])
    closeness.check_policy_report(*reports)
    # Two epochs over two minibatches in each of three updates.
    moved = 12 * config.policy_optimizer.learning_rate
    one, other = (
        load_file(d / "model.safetensors")
        for d in (config.output_directory, again.output_directory)
    )
    closeness.check_tensors(one, other, moved)
    states = [kept_tensors(tmp_path / name / "step-000006") for name in ("straight", "killed")]
    assert {key.split("/")[1] for key in states[0] if key.endswith("exp_avg_sq")} == {
        "policy",
        "critic",
    }
    closeness.check_tensors(states[0], states[1], moved)


def test_a_non_finite_update_stops_the_run_and_keeps_the_checkpoint(
    tmp_path: Path,
) -> None:
    far = OptimizerConfig(learning_rate=1e30, warmup_fraction=0.0)
    config = toy_config(updates=2, policy_optimizer=far, checkpoint_every_updates=1)
    context = RunContext(DirectoryCheckpoints(tmp_path), ProgressList())
    with refused(NonFiniteError, field="gradient", reason="NOT_FINITE"):
        train_ppo(toy_networks(), config, context, sentiment)
    kept = latest_complete(tmp_path)
    assert kept is not None
    assert kept.name == "step-000000"


def test_training_changes_the_model_and_records_its_origin(
    config: PpoConfig, tmp_path: Path
) -> None:
    progress = ProgressList()
    report = run(config, tmp_path / "run", progress)
    manifest = verify_manifest(config.output_directory)
    assert (manifest.kind, manifest.parents) == ("model", ("first", "reward"))
    assert (report["stopped_because"], report["exported_update"]) == ("", 6)
    before, after = (
        load_file(d / "model.safetensors")
        for d in (config.model_directory, config.output_directory)
    )
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert progress.steps[0].metrics["kl"] == pytest.approx(0.0, abs=1e-5)
    assert progress.steps[-1].metrics["beta"] != 0.05
    assert {
        "score",
        "kl",
        "entropy",
        "clip_fraction",
        "eos_rate",
        "response_tokens",
        "explained_variance",
    } <= set(progress.steps[0].metrics)


def test_with_lora_networks_share_a_decoder_and_train_adapters(
    config: PpoConfig, tmp_path: Path
) -> None:
    made_of = network_sources(config, None)
    networks = open_networks(made_of, with_reference=True)
    critic, reward = open_critic(networks, made_of), networks.reward
    assert networks.reference is not None and reward is not None
    decoders = {
        id(backbone.decoder)
        for backbone in (
            networks.policy,
            networks.reference,
            critic.backbone,
            reward.scalar.backbone,
        )
    }
    assert len(decoders) == (4 if config.lora is None else 1)
    learning = {id(p) for part in (networks.policy, critic) for _, p in part.named_parameters()}
    frozen = {id(p) for part in (reward.scalar,) for _, p in part.named_parameters()}
    assert not learning & frozen
    assert all(
        p.requires_grad for part in (networks.policy, critic) for _, p in part.named_parameters()
    )
    assert not any(p.requires_grad for _, p in reward.scalar.named_parameters())
    adapted = all("adapters.policy" in name for name, _ in networks.policy.named_parameters())
    assert adapted == (config.lora is not None)


@pytest.mark.parametrize(
    "trained", [pytest.param("full", marks=pytest.mark.long), "lora"], indirect=True
)
def test_frozen_matrices_in_bfloat16_train_and_sample_as_before(
    config: PpoConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on an accelerator that computes in bfloat16; the first update has no rounding of steps."""
    config = replace(config, updates=1, machine=replace(config.machine, dtype="bfloat16"))
    found = []
    for stored_narrow in (False, True):
        monkeypatch.setattr(layout, "stores_narrow", lambda autocast, is_so=stored_narrow: is_so)
        directory, progress = tmp_path / str(stored_narrow), ProgressList()
        run(replace(config, output_directory=directory / "out"), directory / "runs", progress)
        found.append(progress.steps[0].metrics)
    wide, narrow = found
    assert narrow["sampler_mismatch"] < 0.05
    # With adapters the sampler has the trainer's type, so it is nearer to the trainer.
    assert config.lora is None or narrow["sampler_mismatch"] < wide["sampler_mismatch"]
    assert narrow["response_tokens"] == pytest.approx(wide["response_tokens"], rel=0.2)


@pytest.mark.parametrize("trained", ["full"], indirect=True)
def test_a_trimmed_vocabulary_needs_adapters(config: PpoConfig) -> None:
    with refused(ConfigError, field="vocabulary_rows", reason="CONFLICT"):
        replace(config, vocabulary_rows=290)


@pytest.mark.parametrize("trained", ["lora"], indirect=True)
def test_a_trimmed_vocabulary_trains_the_same_adapter_shapes(
    config: PpoConfig, tmp_path: Path
) -> None:
    report = run(replace(config, vocabulary_rows=290, updates=2), tmp_path / "run")
    assert report["updates"] == 2
    merged, base = (
        load_file(d / "model.safetensors")
        for d in (config.output_directory, config.model_directory)
    )
    assert torch.equal(merged["model.embed_tokens.weight"], base["model.embed_tokens.weight"])


@pytest.mark.parametrize("trained", ["full"], indirect=True)
def test_a_full_reward_model_refuses_trimmed_ids(config: PpoConfig, tmp_path: Path) -> None:
    with refused(RewardModelError, field="vocabulary_rows", reason="CONFLICT"):
        run(replace(config, lora=LORA, vocabulary_rows=290), tmp_path / "run")


@pytest.mark.parametrize("trained", ["full"], indirect=True)  # an adapter shares the policy's base
def test_a_reward_model_of_another_tokenizer_is_refused_with_both_names(config: PpoConfig) -> None:
    assert config.reward_model_directory is not None
    train_tokenizer(["zebra quilt"] * 50, VOCABULARY, config.reward_model_directory)
    with refused(RewardModelError, field="tokenizer.json", reason="MISMATCH") as caught:
        open_networks(network_sources(config, None), with_reference=True)
    assert "reward" in str(caught.value)
    assert "first" in str(caught.value)


def test_a_judge_of_another_tokenizer_is_refused_with_both_names(
    config: PpoConfig, tmp_path: Path
) -> None:
    judge, base = config.reward_model_directory, tmp_path / "other" / "first"
    shutil.copytree(config.model_directory, base)
    judged = replace(config, judge_directory=judge, judge_base_directory=base)
    assert open_gold(judged, None, ALONE) is not None  # the same files in another folder
    train_tokenizer(["zebra quilt"] * 50, VOCABULARY, base)
    with refused(RewardModelError, field="tokenizer.json", reason="MISMATCH") as caught:
        open_gold(
            judged if config.lora else replace(judged, judge_directory=foreign(judge, base)),
            None,
            ALONE,
        )
    assert str(caught.value).count("first") >= 2


def foreign(judge: Path | None, base: Path) -> Path:
    """Return the full reward model with the tokenizer of `base`."""
    assert judge is not None
    shutil.copytree(judge, copy := judge.parent / "foreign")
    shutil.copy(base / "tokenizer.json", copy)
    return copy


def test_long_prompts_are_dropped_and_counted(config: PpoConfig) -> None:
    write_lines(config.data_path, [{"messages": user("tree")}, {"messages": user("tree " * 300)}])
    prompts = read_data(config, load_chat(config.model_directory))
    assert (len(prompts.ids), prompts.dropped_too_long) == (1, 1)


def test_minibatches_must_divide_an_update(config: PpoConfig) -> None:
    with refused(ConfigError, field="minibatch_rows", reason="OUT_OF_RANGE", limit="2 or 1"):
        replace(config, minibatch_rows=3)


def test_no_model_has_dropout(config: PpoConfig) -> None:
    networks = open_networks(network_sources(config, None), with_reference=True)
    for module in networks.policy.decoder.modules():
        assert not isinstance(module, torch.nn.Dropout)
