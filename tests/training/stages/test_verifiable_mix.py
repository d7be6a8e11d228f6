"""Preference rewards and verifiable tasks in one run of PPO or GRPO."""

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.errors import refused
from tests.training.rl.rollouts import rollout_of
from tests.training.rl.toy import toy_networks
from tests.training.stages.rows import pair_rows
from tests.training.threaded_ranks import on_two_ranks
from tests.training.toys import (
    WORDS,
    KillAfter,
    Killed,
    ProgressList,
    kept_tensors,
    toy_model,
    user,
    write_lines,
)
from training.artifacts.manifest import Manifest, verify_manifest
from training.data.chat import load_chat
from training.data.formats.fields import ExampleError
from training.errors import ConfigError
from training.model.lora import LoraConfig
from training.recipes.custom.commands import checked_rows
from training.recipes.rlvr import stage
from training.rl.alarms import record_figures
from training.rl.experience import ScoringConfig, score_rollout
from training.rl.scores import Answer, score_by_verifier, score_mixed
from training.runtime.context import Lineage, Machine, RunContext
from training.runtime.ranks import ALONE, Ranks, all_different
from training.runtime.training_state import DirectoryCheckpoints
from training.stages import grpo, ppo, reward_model
from training.stages.grpo import GrpoConfig
from training.stages.policy_config import PolicyConfig, VerifiableMix
from training.stages.policy_inputs import read_data
from training.stages.policy_loop import rollout_request
from training.stages.ppo import PpoConfig
from training.stages.reward_model import RewardModelConfig
from training.verification.checks import Check, Mathematics, Outcome, Verdict
from training.verification.items import Item, Split, split_of, write_items
from training.verification.scorer import Scorer

LORA, UPDATES = LoraConfig(rank=4), 2
SUMS = [
    Item("sums", f"{a} + {a}?", Mathematics(str(2 * a)))
    for a in range(12)
    if split_of(f"{a} + {a}?") is Split.TRAIN
]


class Verifier:
    """Rewards responses with an even number of characters; remembers the answers."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []

    def __call__(self, answers: Sequence[Answer]) -> list[float]:
        self.answers += answers
        return [float(len(answer.text) % 2 == 0) for answer in answers]

    def take_figures(self) -> Mapping[str, float]:
        return {"verdict_right": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, its reward model, and prompts of both kinds."""
    directory = tmp_path_factory.mktemp("mix")
    reward_model.run(
        RewardModelConfig(
            model_directory=toy_model(directory / "first"),
            data_path=write_lines(directory / "pairs.jsonl", pair_rows(40, noise=0.0)),
            output_directory=directory / "reward",
            lineage=Lineage("reward"),
            lora=LORA,
            machine=Machine(threads=1),
        ),
        RunContext(DirectoryCheckpoints(directory / "reward-run"), ProgressList()),
    )
    # A task of a row that the reward model scores has no effect.
    rows = [{"messages": user(f"{w} {i}"), "task": "no task"} for i, w in enumerate(WORDS * 2)]
    write_lines(directory / "prompts.jsonl", rows)
    write_items(SUMS, directory / "sums.jsonl")
    return directory


@pytest.fixture(params=[PpoConfig, GrpoConfig])
def config(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> PolicyConfig:
    for part in ("first", "reward"):
        shutil.copytree(folder / part, tmp_path / part)
    made: PolicyConfig = request.param(
        model_directory=tmp_path / "first",
        reward_model_directory=tmp_path / "reward",
        data_path=folder / "prompts.jsonl",
        output_directory=tmp_path / "second",
        lineage=Lineage("second"),
        lora=LORA,
        updates=UPDATES,
        prompts_per_update=8,
        samples_per_prompt=2,
        minibatch_rows=8,
        max_response_tokens=8,
        length_floor_fraction=0.0,
        checkpoint_every_updates=1,
        verifiable=VerifiableMix(folder / "sums.jsonl", share=0.4, reward_scale=3.0),
        machine=Machine(threads=1),
    )
    return made


def run(config: Any, context: RunContext, verifier: Verifier | None) -> Manifest:
    return (ppo if isinstance(config, PpoConfig) else grpo).run(config, context, verifier)


def test_both_rewards_are_separate_figures_and_a_killed_run_resumes_with_the_same_bits(
    config: PolicyConfig, tmp_path: Path
) -> None:
    straight, resumed, verifier = ProgressList(), ProgressList(), Verifier()
    first = run(config, RunContext(DirectoryCheckpoints(tmp_path / "a"), straight), verifier)

    # Three of eight prompts of every update are tasks, with two answers each.
    assert len(verifier.answers) == UPDATES * 3 * 2
    assert {answer.task.split('"')[3] for answer in verifier.answers} == {"sums"}
    for number, step in enumerate(straight.steps):
        rewards = [
            float(len(answer.text) % 2 == 0)
            for answer in verifier.answers[6 * number : 6 * number + 6]
        ]
        found = step.metrics
        assert found["verifiable_score"] == pytest.approx(sum(rewards) / 6)
        parts = 10 * found["preference_score"] + 6 * 3.0 * found["verifiable_score"]
        assert found["score"] == pytest.approx(parts / 16, abs=1e-5)
        assert found["verdict_right"] == pytest.approx(0.5)
    assert first.report["verifiable_prompts"] == len(SUMS)
    for name in ("preference_score", "verifiable_score"):
        assert first.report[f"first_{name}"] == straight.steps[0].metrics[name]
        assert first.report[f"last_{name}"] == straight.steps[-1].metrics[name]

    again = replace(config, output_directory=tmp_path / "again")
    with pytest.raises(Killed):
        run(again, RunContext(KillAfter(tmp_path / "b", 1), ProgressList()), Verifier())
    second = run(again, RunContext(DirectoryCheckpoints(tmp_path / "b"), resumed), Verifier())
    assert [step.metrics for step in resumed.steps] == [step.metrics for step in straight.steps[1:]]
    assert (first.files, first.report) == (second.files, second.report)
    states = [kept_tensors(tmp_path / name / f"step-{UPDATES:06}") for name in "ab"]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("config", [GrpoConfig], indirect=True)
def test_every_update_has_the_share_and_workers_draw_like_one_process(
    config: PolicyConfig,
) -> None:
    prompts = read_data(config, load_chat(config.model_directory))
    first = len(prompts.ids) - prompts.verifiable
    assert prompts.tasks[:first] == [""] * first
    drawn: Counter[tuple[int, ...]] = Counter()
    for update in range(20):
        alone = rollout_request(update, prompts, config, ALONE)
        shares = [rollout_request(update, prompts, config, all_different(r, 2)) for r in (0, 1)]
        merged = [
            pair for pairs in zip(*(s.token_ids for s in shares), strict=True) for pair in pairs
        ]
        assert list(alone.token_ids) == merged
        sums = [ids for ids in alone.token_ids if list(ids) in prompts.ids[first:]]
        assert len(sums) == config.verifiable_per_update == 3
        drawn.update(sums)
    # Tasks are drawn in passes over their own file.
    assert set(drawn) == {tuple(ids) for ids in prompts.ids[first:]}
    assert max(drawn.values()) - min(drawn.values()) <= 1


@pytest.mark.parametrize(("share", "tasks"), [(0.01, 1), (0.25, 2), (0.5, 4), (0.99, 7)])
def test_share_is_rounded_to_at_least_one_prompt_of_each_kind(share: float, tasks: int) -> None:
    nowhere = Path("none")
    made = GrpoConfig(
        nowhere,
        nowhere,
        nowhere,
        Lineage("x"),
        reward_model_directory=nowhere,
        prompts_per_update=8,
        verifiable=VerifiableMix(nowhere, share=share),
    )
    assert made.verifiable_per_update == tasks
    assert replace(made, verifiable=None).verifiable_per_update == 0


@pytest.mark.parametrize("config", [PpoConfig], indirect=True)
def test_contradictions_are_refused_by_field(config: PolicyConfig, tmp_path: Path) -> None:
    context = RunContext(DirectoryCheckpoints(tmp_path / "run"), ProgressList())
    with refused(ConfigError, field="verifiable", reason="MISSING"):
        run(config, context, None)
    with refused(ConfigError, field="verifiable", reason="CONFLICT"):
        replace(config, reward_model_directory=None)
    for share in (0.0, 1.0):
        with refused(ConfigError, field="share", reason="OUT_OF_RANGE", limit="in (0, 1)"):
            VerifiableMix(tmp_path, share=share)
    with refused(ConfigError, field="prompts_per_update", reason="TOO_SMALL"):
        replace(config, prompts_per_update=1, minibatch_rows=2)
    assert config.verifiable is not None
    with refused(ConfigError, field="verifiable.reward_scale", limit="at most 5"):
        replace(config, verifiable=replace(config.verifiable, reward_scale=6.0))
    write_items(SUMS[:2], tmp_path / "few.jsonl")
    few = replace(config.verifiable, data_path=tmp_path / "few.jsonl")
    with refused(ConfigError, field="verifiable.share", reason="TOO_LARGE", limit="at most 2"):
        checked_rows(replace(config, verifiable=few), is_first=True)


class Right:
    """Workers that judge every response as right."""

    count = 2

    def judge(self, check: Check, response: str) -> Verdict:
        return Verdict(Outcome.RIGHT)


@pytest.mark.parametrize("config", [GrpoConfig], indirect=True)
def test_stage_opens_the_scorer_of_the_tasks_and_refuses_held_out_items(
    config: PolicyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Item] = []

    @contextmanager
    def scorer(items: Sequence[Item]) -> Iterator[Scorer]:
        opened.extend(items)
        yield Scorer(Right(), None)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "open_scorer", scorer)
    context = RunContext(DirectoryCheckpoints(tmp_path / "run"), progress := ProgressList())
    settings: Any = replace(config, updates=1)
    stage.run(settings, context)
    assert opened == SUMS
    assert progress.steps[0].metrics["verifiable_score"] == 1
    assert progress.steps[0].metrics["verdict_right"] == 1
    assert verify_manifest(config.output_directory).parents == ("first", "reward")

    questions = (f"{number}?" for number in range(100))
    held = next(question for question in questions if split_of(question) is Split.HELD_OUT)
    write_items([Item("sums", held, Mathematics("1"))], tmp_path / "held.jsonl")
    mix = VerifiableMix(tmp_path / "held.jsonl")
    with refused(ExampleError, field="prompts.1", reason="CONFLICT"):
        stage.run(replace(settings, output_directory=tmp_path / "no", verifiable=mix), context)


def test_alarm_of_the_gold_judge_reads_the_preference_score() -> None:
    numbers: dict[str, float] = {}
    record_figures(numbers, {"score": 2.0, "preference_score": 0.5, "gold_score": 0.25})
    assert numbers["smooth_score"] == 0.5
    record_figures(plain := {}, {"score": 2.0, "gold_score": 0.25})
    assert plain["smooth_score"] == 2.0


class Counting(Verifier):
    """Verifier with the share of right answers since the last call."""

    def take_figures(self) -> Mapping[str, float]:
        right = sum(len(answer.text) % 2 == 0 for answer in self.answers)
        return {"verdict_right": right / max(1, len(self.answers))}


def test_workers_with_different_numbers_of_tasks_have_the_figures_of_one_process() -> None:
    lengths, tasks = (2, 4, 3, 5, 2, 1, 6, 4), ("a", "b", "c", "", "", "", "", "d")
    rollout = replace(rollout_of([[5] * n for n in lengths], [True] * 8), tasks=tasks)
    policy = toy_networks().policy

    def figures(rows: list[int], ranks: Ranks) -> dict[str, float]:
        verifier = Counting()
        score = score_mixed(
            lambda part: part.response_mask_BR.sum(1) / 10.0,
            score_by_verifier(verifier, lambda ids: "x" * len(ids), ranks),
            2.0,
        )
        scoring = ScoringConfig(
            score, 1.0, 2, ranks, verifier=verifier, verifiable_scale=2.0, gold=score
        )
        return score_rollout(policy, None, rollout.rows(torch.tensor(rows)), scoring).figures

    alone = figures(list(range(8)), ALONE)
    assert alone["verifiable_score"] == alone["verdict_right"] == pytest.approx(3 / 4)
    assert alone["preference_score"] == alone["gold_score"] == pytest.approx(14 / 40)
    # Ranks 0 and 1 have three tasks and one, then four and none.
    for own in ([0, 1, 2, 3], [0, 1, 2, 7]):
        others = [row for row in range(8) if row not in own]
        shares = (own, others)
        found = on_two_ranks(lambda ranks, shares=shares: figures(shares[ranks.rank], ranks))
        assert found[0] == found[1] == pytest.approx(alone)
