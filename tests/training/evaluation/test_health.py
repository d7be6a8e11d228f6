"""Health stage: its measurements decide about the start of PPO, and one rank measures for all."""

import pickle
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.training.evaluation.health_workers import CONFIG
from tests.training.rl.served_toy import served_rows, sharp_model
from tests.training.stages.rows import pair_rows
from tests.training.toys import ProgressList, toy_model, write_lines
from tests.training.workers import run_workers
from training.artifacts.manifest import ManifestError, verify_manifest
from training.evaluation import health
from training.evaluation.answers import WIDE
from training.evaluation.comparison import write_figures
from training.evaluation.gate import GateConfig, Result, decide
from training.evaluation.health import (
    Health,
    HealthConfig,
    ServingMismatch,
    check_compared,
    check_labels,
    check_reward_model,
    measure_served,
)
from training.figures import Estimate
from training.optim.optimizers import OptimizerConfig
from training.recipes.nano import nano
from training.recipes.recipe import Plan
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.ranks import Ranks
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import reward_model
from training.stages.reward_model import RewardModelConfig

SURE, COIN = Estimate(0.85, 0.03, 200, 60), Estimate(0.52, 0.03, 200, 60)


def config_of(tmp_path: Path) -> HealthConfig:
    recipe = nano(Plan("nano-1", tmp_path, tmp_path / "nano-0"))
    return HealthConfig(recipe.evaluation, recipe.gate, label_noise=0.1, ceiling=0.9)


@pytest.mark.parametrize(
    ("reward_model", "judge", "noise", "refused_for"),
    [
        (SURE, SURE, 0.1, []),
        (COIN, SURE, 0.1, ["reward model beats a coin", "reward model near its ceiling"]),
        (SURE, COIN, 0.1, ["judge beats a coin", "judge near its ceiling"]),
        (SURE, SURE, 0.45, ["label noise"]),
    ],
)
def test_ppo_starts_only_with_healthy_models_and_labels(
    tmp_path: Path, reward_model: Estimate, judge: Estimate, noise: float, refused_for: list[str]
) -> None:
    config = replace(config_of(tmp_path), label_noise=noise)
    measured = asdict(Health(reward_model, judge))
    write_figures(
        config.output_directory, "health", measured, ("reward", "judge"), config.evaluation
    )
    assert [check.name for check in config.checks() if not check.passed] == refused_for
    assert config.passed() == (not refused_for)


@pytest.mark.parametrize(
    ("compared", "results"),
    [
        (None, []),
        (Estimate(0.8, 0.05, 60, 40), [Result.PASS]),
        (Estimate(0.55, 0.05, 60, 40), [Result.NOT_ENOUGH_DATA]),
        (Estimate(0.45, 0.05, 60, 40), [Result.FAIL]),
        # Few votes hold no version and refuse none.
        (Estimate(0.2, 0.1, 19, 19), [Result.UNINFORMATIVE]),
    ],
)
def test_votes_have_a_row_of_their_own_with_enough_prompts(
    tmp_path: Path, compared: Estimate | None, results: list[Result]
) -> None:
    assert [check.result for check in check_compared(compared, GateConfig())] == results
    config = config_of(tmp_path)
    measured = asdict(Health(SURE, SURE, None, compared))
    write_figures(config.output_directory, "health", measured, ("r", "j"), config.evaluation)
    assert config.passed() == (not set(results) & {Result.FAIL, Result.NOT_ENOUGH_DATA})


@pytest.mark.parametrize(
    ("served", "passes"),
    [
        (None, True),
        (ServingMismatch(64, 0, 0.086), True),
        (ServingMismatch(64, 3, 0.002), True),
        (ServingMismatch(64, 4, 0.002), False),
        (ServingMismatch(64, 0, 0.21), False),
        (ServingMismatch(64, 64, None), False),
    ],
)
def test_ppo_does_not_start_if_the_served_model_differs(
    tmp_path: Path, served: ServingMismatch | None, passes: bool
) -> None:
    config = config_of(tmp_path)
    measured = asdict(Health(SURE, SURE, served))
    write_figures(
        config.output_directory, "health", measured, ("reward", "judge"), config.evaluation
    )
    assert health.read_health(config.output_directory).served == served
    assert config.passed() == passes
    assert [check.name for check in config.checks() if not check.passed] == (
        [] if passes else ["served as trained"]
    )


def test_health_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    measured = {name: asdict(SURE) for name in ("reward_model", "judge")}
    write_figures(
        config.output_directory, "health", measured, ("reward", "judge"), config.evaluation
    )
    assert health.read_health(config.output_directory).served is None


def test_only_answers_of_the_incumbent_are_measured(tmp_path: Path) -> None:
    incumbent = sharp_model(tmp_path / "toy-0")
    rows = served_rows(incumbent, 6)
    for row in rows[:2]:
        row["served"]["version"] = "toy-9"
    del rows[2]["served"]
    rows[3]["served"]["prompt_tokens"] += 1
    thumbs = write_lines(tmp_path / "thumbs.jsonl", rows)
    apart = measure_served(incumbent, thumbs, WIDE, nullcontext)
    assert apart is not None
    assert (apart.answers, apart.unfit) == (3, 1)
    assert apart.mismatch is not None
    assert apart.mismatch < 1e-3
    nobodys = write_lines(tmp_path / "others.jsonl", rows[:3])
    assert measure_served(incumbent, nobodys, WIDE, nullcontext) is None
    unlike = write_lines(tmp_path / "unlike.jsonl", rows[3:4])
    assert measure_served(incumbent, unlike, WIDE, nullcontext) == ServingMismatch(1, 1, None)


@pytest.fixture
def trained(tmp_path: Path) -> HealthConfig:
    """Return the config of a health stage whose models exist."""
    first, served = toy_model(tmp_path / "first"), sharp_model(tmp_path / "toy-0")
    pairs = write_lines(tmp_path / "pairs.jsonl", pair_rows(60, noise=0.0))
    learned = RewardModelConfig(
        model_directory=first,
        data_path=pairs,
        output_directory=tmp_path / "reward",
        lineage=Lineage("reward"),
        optimizer=OptimizerConfig(learning_rate=3e-3),
        machine=Machine(threads=1),
    )
    reward_model.run(
        learned, RunContext(DirectoryCheckpoints(tmp_path / "reward-run"), ProgressList())
    )
    whole = config_of(tmp_path)
    return replace(
        whole,
        evaluation=replace(
            whole.evaluation,
            reward_model_directory=tmp_path / "reward",
            reward_model_base=first,
            judge_directory=tmp_path / "reward",
            judge_base=first,
            held_out_pairs=pairs,
            incumbent_directory=served,
            thumbs=write_lines(tmp_path / "thumbs.jsonl", served_rows(served, 2)),
        ),
    )


def test_one_rank_measures_both_models_on_held_out_pairs(
    trained: HealthConfig, tmp_path: Path
) -> None:
    config = trained
    checkpoints = DirectoryCheckpoints(tmp_path / "health-run")
    with pytest.raises(ManifestError):
        health.run(config, RunContext(checkpoints, ProgressList(), Ranks(rank=1)))
    manifest = health.run(config, RunContext(checkpoints, ProgressList()))
    assert manifest == verify_manifest(config.output_directory)
    assert (manifest.kind, manifest.parents) == ("health", ("reward", "reward"))
    found = health.read_health(config.output_directory)
    assert found.reward_model == found.judge
    assert (found.reward_model.count, found.reward_model.value > 0.7) == (60, True)
    assert found.served is not None
    assert (found.served.answers, found.served.unfit) == (2, 0)
    assert "nats per token" in found.text()


@pytest.mark.long
def test_a_model_for_several_devices_is_measured_on_shards(
    trained: HealthConfig, tmp_path: Path
) -> None:
    alone = DirectoryCheckpoints(tmp_path / "health-run")
    health.run(trained, RunContext(alone, ProgressList()))
    whole = health.read_health(trained.output_directory)
    divided = replace(trained.evaluation, devices=2, health_directory=tmp_path / "divided-health")
    config = replace(trained, evaluation=divided)
    (tmp_path / CONFIG).write_bytes(pickle.dumps(config))
    run_workers("tests.training.evaluation.health_workers:measure", 2, tmp_path)
    found = health.read_health(config.output_directory)
    assert (found.reward_model, found.judge) == (whole.reward_model, whole.judge)
    assert found.served is not None and whole.served is not None
    assert found.served.mismatch == pytest.approx(whole.served.mismatch, abs=1e-5)


def test_reward_model_must_be_better_than_chance() -> None:
    sure, doubtful = Estimate(0.7, 0.05, 200, 40), Estimate(0.6, 0.05, 200, 40)
    assert decide(check_reward_model("judge", sure, None, GateConfig())).passed
    assert not decide(check_reward_model("judge", doubtful, None, GateConfig())).passed


def test_reward_model_far_below_its_ceiling_is_rejected() -> None:
    accuracy = Estimate(0.65, 0.02, 2000, 400)
    assert decide(check_reward_model("judge", accuracy, 0.75, GateConfig())).passed
    assert not decide(check_reward_model("judge", accuracy, 0.9, GateConfig())).passed


def test_contradictory_labels_are_rejected() -> None:
    assert decide(check_labels(0.2, GateConfig())).passed
    assert not decide(check_labels(0.45, GateConfig())).passed
    assert check_labels(None, GateConfig()) == []
