"""Tasks of the gate: both versions are measured, comparable scores are not measured again."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.errors import refused
from tests.training.evaluation.measurements import shares, write_scores
from tests.training.feedback_log import FeedbackLog
from tests.training.loop.nano_run import BASE, PROBES, recipe, run_nano
from training import loop
from training.__main__ import parser
from training.artifacts.manifest import write_manifest
from training.artifacts.registry import Registry
from training.artifacts.scores import ENDPOINT, ScoredModel, ScoreStore
from training.benchmarks.models import ModelChoice
from training.benchmarks.tasks import Benchmark
from training.data.formats.fields import ExampleError
from training.data.packages import DataError
from training.errors import ConfigError
from training.evaluation.answers import SampledAnswer
from training.evaluation.gate import GateConfig, Result
from training.evaluation.task_rows import check_scores
from training.loop_run import NotEnoughFeedbackError
from training.model.placement import Place
from training.probes.items import Kind
from training.probes.measurement import measure
from training.probes.measurement import write_scores as write_probes
from training.recipes import requirements
from training.recipes.custom.loop_recipe import adjusted_recipe
from training.recipes.nano import nano
from training.recipes.recipe import LoopConfig, Plan
from training.stages.policy_config import VerifiableMix
from training.verification.checks import Calls, Mathematics
from training.verification.items import Item, Split, split_of, write_items
from training.verification.sandbox.bubblewrap import PROGRAM_VARIABLE

TASKS = set(PROBES)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the directories of the models that were measured."""
    seen: list[Path] = []

    class Model:
        def __init__(self, directory: Path, place: Place) -> None:
            seen.append(directory)

        def answer_greedily(self, asked: Sequence[object], max_tokens: int) -> list[SampledAnswer]:
            return [SampledAnswer(place, "Yes.", 2, True) for place in range(len(asked))]

    monkeypatch.setattr(loop, "ChatModel", Model)
    return seen


def run_of(
    root: Path, version: str, incumbent: str, tasks: tuple[str, ...] = PROBES
) -> SimpleNamespace:
    config = nano(Plan(version, root / version, root / incumbent))
    evaluation = config.evaluation
    for directory in (evaluation.candidate_directory, evaluation.incumbent_directory):
        if not directory.exists():
            directory.mkdir(parents=True)
            (directory / "model.safetensors").write_text(directory.name)
            write_manifest(directory, kind="model", version=directory.name)
    return SimpleNamespace(
        env=SimpleNamespace(loop_directory=root, state=root),
        config=replace(config, gate=GateConfig(tasks=tasks)),
        record=SimpleNamespace(version=version, incumbent=incumbent),
    )


def test_incumbent_is_measured_once(tmp_path: Path, opened: list[Path]) -> None:
    loop.measure_tasks(run_of(tmp_path, "nano-1", "nano-0"))
    store = ScoreStore(tmp_path)
    assert store.versions() == ["nano-0", "nano-1"]
    assert [path.name for path in opened] == ["nano-1", "nano-0"]
    rows = check_scores(store, "nano-1", "nano-0", GateConfig(tasks=PROBES))
    assert {row.name for row in rows} == TASKS
    assert Result.FAIL not in {row.result for row in rows}
    loop.measure_tasks(run_of(tmp_path, "nano-1", "nano-0"))
    loop.measure_tasks(run_of(tmp_path, "nano-2", "nano-0"))
    assert [path.name for path in opened] == ["nano-1", "nano-0", "nano-2"]
    earlier = store.scores("nano-0")[PROBES[0]]
    store.write(replace(earlier, prompts_sha256="0" * 64), store.items("nano-0", PROBES[0]))
    loop.measure_tasks(run_of(tmp_path, "nano-2", "nano-0"))
    assert [path.name for path in opened][3:] == ["nano-0"]


def test_score_of_another_model_under_the_name_of_a_version_is_measured_again(
    tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, list[str], bool]] = []

    def run(
        benchmarks: Sequence[Benchmark], choice: ModelChoice, store: ScoreStore, restart: bool
    ) -> None:
        names = [benchmark.name for benchmark in benchmarks]
        asked.append((choice.version, names, restart))
        for name in names:
            write_scores(store, choice.version, name, shares(0.5), chance=0.25)

    monkeypatch.setattr(loop, "run_benchmarks", run)
    store, run_ = ScoreStore(tmp_path), run_of(tmp_path, "nano-1", "nano-0", (*PROBES, "piqa"))
    loop.measure_tasks(run_)
    ours = store.scores("nano-0")
    for task in (PROBES[0], "piqa"):
        foreign = replace(ours[task], value=0.9, model_sha256="1" * 64)
        store.write(foreign, store.items("nano-0", task))
    opened.clear()
    asked.clear()
    loop.measure_tasks(run_)
    assert [path.name for path in opened] == ["nano-0"]
    assert asked == [("nano-0", ["piqa"], True)]
    assert {t: s.value for t, s in store.scores("nano-0").items()} == {
        t: s.value for t, s in ours.items()
    }


def test_scores_of_other_items_or_of_an_endpoint_are_measured_again(
    tmp_path: Path, opened: list[Path]
) -> None:
    def say_no(asked: Sequence[object], max_tokens: int) -> list[SampledAnswer]:
        return [SampledAnswer(place, "No.", 2, True) for place in range(len(asked))]

    store, kinds = ScoreStore(tmp_path), [Kind.REFUSAL]
    for version in ("nano-0", "nano-1"):  # the operator measured both on the same other kinds
        write_probes(store, measure(ScoredModel(version), say_no, kinds, complete_kinds=kinds))
    loop.measure_tasks(run_of(tmp_path, "nano-1", "nano-0"))
    assert [path.name for path in opened] == ["nano-1", "nano-0"]
    rows = check_scores(store, "nano-1", "nano-0", GateConfig(tasks=PROBES))
    assert Result.NOT_ENOUGH_DATA not in {row.result for row in rows}

    for version in ("nano-0", "nano-1"):
        score = store.scores(version)[PROBES[0]]
        store.write(replace(score, source=ENDPOINT), store.items(version, PROBES[0]))
    loop.measure_tasks(run_of(tmp_path, "nano-1", "nano-0"))
    assert [path.name for path in opened][2:] == ["nano-1", "nano-0"]


def test_benchmarks_of_the_recipe_are_run(
    tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str, list[str]]] = []

    def run(
        benchmarks: Sequence[Benchmark], choice: ModelChoice, store: ScoreStore, restart: bool
    ) -> None:
        assert not restart
        names = [benchmark.name for benchmark in benchmarks]
        asked.append((Path(choice.model).name, choice.version, names))
        for name in names:
            write_scores(store, choice.version, name, shares(0.5), chance=0.25)

    monkeypatch.setattr(loop, "run_benchmarks", run)
    for _ in range(2):
        loop.measure_tasks(run_of(tmp_path, "nano-1", "nano-0", ("arc_easy", "piqa")))
    both = ["arc_easy", "piqa"]
    assert asked == [("nano-1", "nano-1", both), ("nano-0", "nano-0", both)]
    loop.measure_tasks(run_of(tmp_path, "nano-1", "nano-0", ("arc_easy", "lambada")))
    assert asked[2:] == [("nano-1", "nano-1", ["lambada"]), ("nano-0", "nano-0", ["lambada"])]
    assert opened == []


def test_tasks_that_cannot_be_measured_are_refused_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_tasks(*tasks: str) -> Callable[[Plan], LoopConfig]:
        return lambda plan: replace(recipe(plan), gate=GateConfig(tasks=tasks))

    log = prepare_nothing(tmp_path)
    with refused(ConfigError, field="gate.tasks", reason="UNKNOWN"):
        run_nano(tmp_path, log, recipe=with_tasks("arc_esay"))
    monkeypatch.setattr(requirements, "find_spec", lambda _: None)
    with refused(ConfigError, field="gate.tasks", reason="MISSING"):
        run_nano(tmp_path, log, recipe=with_tasks("piqa"))
    monkeypatch.undo()
    monkeypatch.setenv(PROGRAM_VARIABLE, str(tmp_path / "absent"))
    for task in ("humaneval", "knowledge"):
        with refused(ConfigError, field="gate.tasks", reason="MISSING"):
            run_nano(tmp_path, log, recipe=with_tasks(task))
    monkeypatch.setattr(requirements, "installed", not_installed)
    with refused(ConfigError, field="gate.tasks", reason="MISSING"):
        run_nano(tmp_path, log, recipe=with_tasks("piqa"))
    with refused(NotEnoughFeedbackError):
        run_nano(tmp_path, log, recipe=with_tasks(*PROBES))


def test_verifiable_tasks_are_checked_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = prepare_nothing(tmp_path)

    def mixed(*items: Item) -> Callable[[Plan], LoopConfig]:
        path = tmp_path / "tasks.jsonl"
        if items:
            write_items(items, path)

        def made(plan: Plan) -> LoopConfig:
            config = recipe(plan)
            return replace(config, ppo=replace(config.ppo, verifiable=VerifiableMix(path)))

        return made

    def numbered(split: Split) -> str:
        return next(q for q in (f"{n}?" for n in range(99)) if split_of(q) is split)

    known, held_out = numbered(Split.TRAIN), numbered(Split.HELD_OUT)
    with refused(ConfigError, field="ppo.verifiable.data_path", reason="MISSING"):
        run_nano(tmp_path, log, recipe=mixed())
    with refused(ExampleError, field="prompts.1", reason="CONFLICT"):
        run_nano(tmp_path, log, recipe=mixed(Item("sums", held_out, Mathematics("1"))))
    monkeypatch.setenv(PROGRAM_VARIABLE, str(tmp_path / "absent"))
    with refused(ConfigError, field="ppo.verifiable", reason="MISSING"):
        run_nano(tmp_path, log, recipe=mixed(Item("code", known, Calls("f", ("[]",), ("1",)))))
    with refused(NotEnoughFeedbackError):
        run_nano(tmp_path, log, recipe=mixed(Item("sums", known, Mathematics("1"))))


def not_installed(lock: Path) -> Path:
    raise DataError("no package index", field=lock.name)


def test_command_line_adds_tasks_to_those_of_the_recipe(tmp_path: Path) -> None:
    def tasks(*more: str) -> tuple[str, ...]:
        options = parser().parse_args(["loop", "--recipe", "nano", *more])
        plan = Plan("nano-1", tmp_path / "run", tmp_path / "nano-0")
        return adjusted_recipe(options)(plan).gate.tasks

    own = tasks()
    assert tasks("--gate-tasks", f"piqa,{own[0]},lambada") == (*own, "piqa", "lambada")


def prepare_nothing(state: Path) -> FeedbackLog:
    """Return a log without feedback."""
    Registry(state / "models").admit(BASE, "nano-0")
    return FeedbackLog(state / "objects")
