"""The reward model: accuracy near the ceiling, splits by prompt, resumption and loading."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.support.errors import refused
from tests.training.closeness import Closeness
from tests.training.stages.rows import pair_rows
from tests.training.toys import KillAfter, Killed, ProgressList, toy_model, write_lines
from training.artifacts.manifest import verify_manifest
from training.data.chat import Message, load_chat
from training.data.examples import read_pairs
from training.data.formats.fields import ExampleError
from training.errors import ConfigError
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder
from training.model.lora import AdapterError, LoraConfig, active_adapter
from training.model.reward import (
    RewardModel,
    RewardModelError,
    ScalarHead,
    ScalarModel,
    critic_from,
    load_reward_model,
)
from training.optim.optimizers import OptimizerConfig
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.machine import use_device
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import reward_model
from training.stages.reward_model import LOSSES, Pair, RewardModelConfig

PROMPT = [Message("user", "tree house")]


@pytest.fixture
def config(tmp_path: Path, machine: Machine) -> RewardModelConfig:
    return RewardModelConfig(
        model_directory=toy_model(tmp_path / "first"),
        data_path=write_lines(tmp_path / "pairs.jsonl", pair_rows(160, noise=0.0)),
        output_directory=tmp_path / "reward",
        lineage=Lineage("reward"),
        epochs=3,
        batch_pairs=16,
        microbatch_pairs=8,
        optimizer=OptimizerConfig(learning_rate=3e-3),
        checkpoint_every_steps=5,
        machine=machine,
    )


def run(
    config: RewardModelConfig, runs: Path, progress: ProgressList | None = None
) -> dict[str, Any]:
    reward_model.run(config, RunContext(DirectoryCheckpoints(runs), progress or ProgressList()))
    use_device("cpu")
    return dict(verify_manifest(config.output_directory).report)


@pytest.mark.parametrize("loss", ["bradley_terry", "margin_ranking"])
def test_the_reward_model_learns_clean_labels(
    config: RewardModelConfig, tmp_path: Path, loss: str
) -> None:
    report = run(replace(config, loss=loss), tmp_path / "run")
    assert report["held_out_accuracy"] > 0.95
    assert report["label_noise_ceiling"] is None


def test_held_out_accuracy_comes_near_the_ceiling_that_noise_sets(
    config: RewardModelConfig, tmp_path: Path
) -> None:
    write_lines(config.data_path, pair_rows(160, noise=0.2, repeats=3))
    report = run(replace(config, epochs=1), tmp_path / "run")
    assert report["label_noise_ceiling"] == pytest.approx(0.8, abs=0.05)
    assert (
        report["held_out_accuracy_low"] - 0.05
        < report["label_noise_ceiling"]
        < report["held_out_accuracy_high"] + 0.05
    )


def test_random_labels_teach_nothing(config: RewardModelConfig, tmp_path: Path) -> None:
    write_lines(config.data_path, pair_rows(200, noise=0.5))
    report = run(replace(config, epochs=1), tmp_path / "run")
    wide = report["held_out_accuracy_high"] - report["held_out_accuracy_low"]
    assert abs(report["held_out_accuracy"] - 0.5) < wide


@pytest.mark.parametrize("share", [0, 1])
def test_interval_of_agreeing_pairs_counts_prompts(tmp_path: Path, share: int) -> None:
    def width(prompts: int, each: int) -> float:
        asked = tuple(str(place % prompts) for place in range(prompts * each))
        pairs = reward_model.Pairs([], [Pair((), (), 0.0)] * len(asked), asked, 0, 0, 0, None)
        told = reward_model.report(pairs, torch.full((len(asked),), float(share)), reward, 1)
        assert told["held_out_accuracy"] == share
        low, high = told["held_out_accuracy_low"], told["held_out_accuracy_high"]
        assert low is not None
        assert high is not None
        assert 0 <= low < high <= 1
        assert share in (low, high)
        return high - low

    decoder = load_decoder(toy_model(tmp_path / "first"))
    head = ScalarHead(decoder.config.hidden_size, 0)
    reward = RewardModel(ScalarModel(Backbone(decoder), head), 0.0, 1.0)
    assert width(48, 1) == pytest.approx(0.0741, abs=1e-3)  # Wilson interval of 48 of 48
    assert width(6, 8) == pytest.approx(width(6, 1))


def test_the_split_is_by_prompt(config: RewardModelConfig) -> None:
    write_lines(config.data_path, pair_rows(40, noise=0.3, repeats=4))
    pairs = reward_model.read_data(config, load_chat(config.model_directory))
    assert (pairs.held_out_prompts, len(pairs.held_out), len(pairs.train)) == (8, 32, 128)
    asked = [
        {frozenset((pair.chosen, pair.rejected)) for pair in part}
        for part in (pairs.train, pairs.held_out)
    ]
    assert len(asked[1]) == 8
    assert not asked[0] & asked[1]


def test_preferences_beside_many_ties_are_in_both_parts(config: RewardModelConfig) -> None:
    rows = pair_rows(40, noise=0.0)
    chat = load_chat(config.model_directory)
    write_lines(config.data_path, [*rows[:2], *(row | {"tie": True} for row in rows[2:])])
    pairs = reward_model.read_data(config, chat)
    assert [[pair.tie for pair in part].count(False) for part in (pairs.train, pairs.held_out)] == [
        1,
        1,
    ]
    assert len(pairs.held_out_prompt_ids) == len(pairs.held_out) == 8
    write_lines(config.data_path, [rows[0], *(row | {"tie": True} for row in rows[1:])])
    with refused(ConfigError, field="data_path", reason="EMPTY", limit="at least 2"):
        reward_model.read_data(config, chat)


def test_pairs_of_equal_texts_are_dropped_and_counted(
    config: RewardModelConfig, tmp_path: Path
) -> None:
    rows = pair_rows(30, noise=0.0, repeats=2)
    same = [row | {"rejected": row["chosen"]} for row in rows]
    write_lines(config.data_path, [*rows, *same])
    chat = load_chat(config.model_directory)
    pairs = reward_model.read_data(config, chat)
    assert (len(pairs.train) + len(pairs.held_out), pairs.dropped_equal) == (60, 60)
    assert all(pair.chosen != pair.rejected for pair in (*pairs.train, *pairs.held_out))
    assert run(replace(config, epochs=1), tmp_path / "run")["dropped_equal"] == 60
    write_lines(config.data_path, same)
    with refused(ConfigError, field="data_path", reason="EMPTY"):
        reward_model.read_data(config, chat)


@pytest.mark.parametrize("loss", ["bradley_terry", "margin_ranking"])
def test_ties_pull_scores_together_and_do_not_count_in_accuracy(
    config: RewardModelConfig, tmp_path: Path, loss: str
) -> None:
    """Each pair also occurs as a tie in reverse order.

    If ties were labels, nothing could be learned, and half of the labels would be noise.
    """
    rows = pair_rows(80, noise=0.0)
    ties = [
        row | {"chosen": row["rejected"], "rejected": row["chosen"], "tie": True} for row in rows
    ]
    write_lines(config.data_path, [*rows, *ties])
    progress = ProgressList()
    tied = run(
        replace(config, loss=loss, epochs=2, output_directory=tmp_path / "tied"),
        tmp_path / "run",
        progress,
    )
    assert (tied["train_pairs"], tied["train_ties"]) == (128, 64)
    assert (tied["held_out_pairs"], tied["held_out_ties"]) == (32, 16)
    assert tied["held_out_accuracy"] > 0.95, "of the pairs that are decided"
    assert tied["label_noise"] is None
    other = write_lines(tmp_path / "d", rows + rows)
    decided = run(replace(config, loss=loss, epochs=2, data_path=other), tmp_path / "other")
    assert tied["score_std"] < 0.8 * decided["score_std"]


def test_pairs_of_small_weight_teach_little(config: RewardModelConfig, tmp_path: Path) -> None:
    """Rows of the opposite order, of small weight, do not undo what the others teach."""
    rows = pair_rows(160, noise=0.0)
    opposite = [
        row | {"chosen": row["rejected"], "rejected": row["chosen"], "weight": 0.01}
        for row in rows
        for _ in range(2)
    ]
    write_lines(config.data_path, [*rows, *opposite])
    report = run(replace(config, epochs=1, label_noise=0.0), tmp_path / "run")
    # A third of the held-out pairs has the order of the large weights.
    assert report["held_out_accuracy"] == pytest.approx(1 / 3, abs=0.02)


def test_contradictory_rows_are_refused(config: RewardModelConfig) -> None:
    (row,) = pair_rows(1, noise=0.0)
    for more, field, reason in (
        ({"tie": True, "margin": 0.5}, "margin", "CONFLICT"),
        ({"tie": "yes"}, "tie", "WRONG_TYPE"),
    ):
        with refused(ExampleError, field=f"{config.data_path.name}:1:{field}", reason=reason):
            read_pairs(write_lines(config.data_path, [row | more]))


@pytest.mark.parametrize("lora", [pytest.param(None, marks=pytest.mark.long), LoraConfig(rank=4)])
def test_a_killed_run_resumes_with_the_same_bits(
    config: RewardModelConfig, tmp_path: Path, lora: LoraConfig | None, closeness: Closeness
) -> None:
    config = replace(config, epochs=1, lora=lora)
    straight, resumed = ProgressList(), ProgressList()
    report = run(config, tmp_path / "straight", straight)
    again = replace(config, output_directory=tmp_path / "again")
    with pytest.raises(Killed):
        reward_model.run(again, RunContext(KillAfter(tmp_path / "killed", 5), ProgressList()))
    closeness.check_figures(run(again, tmp_path / "killed", resumed), report)
    closeness.check_steps(resumed.steps, straight.steps[5:])
    folders = (config.output_directory, again.output_directory)
    files, others = ({f.name: load_file(f) for f in d.glob("*.safetensors")} for d in folders)
    assert files.keys() == others.keys() != set()
    for name in files:
        moved = len(resumed.steps) * config.optimizer.learning_rate
        closeness.check_tensors(files[name], others[name], moved)


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=4)])
def test_a_saved_reward_model_loads_normalised_and_as_critic(
    config: RewardModelConfig, tmp_path: Path, lora: LoraConfig | None
) -> None:
    report = run(replace(config, lora=lora, epochs=1), tmp_path / "run")
    reward = load_reward_model(config.output_directory, config.model_directory)
    assert (reward.mean, reward.std) == (report["score_mean"], report["score_std"])
    chat = load_chat(config.model_directory)
    ids = torch.tensor([[*chat.prompt_ids(PROMPT), *chat.response_ids("tree good")]])
    critic = critic_from(reward, config.output_directory)
    with torch.no_grad():
        score = reward.score(ids, torch.ones_like(ids)).item()
        value = critic.everywhere(ids, torch.ones_like(ids))[0, -1].item()
        assert value == pytest.approx(score, abs=1e-4)
        for _, parameter in critic.named_parameters():
            assert parameter.requires_grad
            parameter.add_(0.1)
        assert (
            reward.score(ids, torch.ones_like(ids)).item() == score
        )  # the critic shares no trained weight


def test_an_adapter_is_refused_on_another_base(config: RewardModelConfig, tmp_path: Path) -> None:
    run(replace(config, lora=LoraConfig(rank=2), epochs=1), tmp_path / "run")
    other = toy_model(tmp_path / "other")
    with refused(RewardModelError, field="base", reason="MISMATCH", limit="first") as caught:
        load_reward_model(config.output_directory, other)
    assert "other" in str(caught.value)
    # Other weights under the name of the base.
    namesake = toy_model(tmp_path / "elsewhere" / "first", seed=2)
    with refused(AdapterError, field="base_model_sha256", reason="MISMATCH"):
        load_reward_model(config.output_directory, namesake)


def test_a_shared_decoder_is_not_copied(config: RewardModelConfig, tmp_path: Path) -> None:
    run(replace(config, lora=LoraConfig(rank=2), epochs=1), tmp_path / "run")
    decoder = load_decoder(config.model_directory)
    ids = torch.tensor([[1, 5, 9]])
    plain = decoder(ids).detach()
    reward = load_reward_model(config.output_directory, config.model_directory, decoder)
    assert reward.scalar.backbone.decoder is decoder
    with active_adapter(decoder, None), torch.no_grad():
        assert torch.equal(decoder(ids), plain)


@pytest.mark.parametrize(
    ("change", "field", "reason", "limit"),
    [
        ({"loss": "hinge"}, "loss", "UNKNOWN", ", ".join(LOSSES)),
        ({"label_noise": 0.7}, "label_noise", "OUT_OF_RANGE", "in [0, 0.5)"),
        ({"vocabulary_rows": 9}, "vocabulary_rows", "CONFLICT", ""),
    ],
)
def test_settings_that_cannot_run_are_refused(
    config: RewardModelConfig, change: dict[str, Any], field: str, reason: str, limit: str
) -> None:
    with refused(ConfigError, field=field, reason=reason, limit=limit):
        replace(config, **change)
