"""Probes in a run: both versions are measured, and comparable scores are not measured again."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.training.loop.nano_run import PROBES
from training import loop
from training.artifacts.scores import ScoreStore
from training.evaluation.answers import SampledAnswer
from training.evaluation.gate import GateConfig, Result
from training.evaluation.task_rows import check_scores
from training.recipes.nano import nano
from training.recipes.recipe import Plan

TASKS = set(PROBES)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Return the directories of the models that were measured."""
    seen: list[Path] = []

    class Model:
        def __init__(self, directory: Path) -> None:
            seen.append(directory)

        def answer_greedily(self, asked: Sequence[object], max_tokens: int) -> list[SampledAnswer]:
            return [SampledAnswer(place, "Yes.", 2, True) for place in range(len(asked))]

    monkeypatch.setattr(loop, "ChatModel", Model)
    return seen


def run_of(root: Path, version: str, incumbent: str) -> SimpleNamespace:
    config = nano(Plan(version, root / version, root / incumbent))
    return SimpleNamespace(
        env=SimpleNamespace(loop_directory=root),
        config=replace(config, gate=GateConfig(tasks=PROBES)),
        record=SimpleNamespace(version=version, incumbent=incumbent),
    )


def test_incumbent_is_measured_once(tmp_path: Path, opened: list[Path]) -> None:
    loop.run_probes(run_of(tmp_path, "nano-1", "nano-0"))
    store = ScoreStore(tmp_path)
    assert store.versions() == ["nano-0", "nano-1"]
    assert [path.name for path in opened] == ["nano-1", "nano-0"]
    rows = check_scores(store, "nano-1", "nano-0", GateConfig(tasks=PROBES))
    assert {row.name for row in rows} == TASKS
    assert Result.FAIL not in {row.result for row in rows}
    loop.run_probes(run_of(tmp_path, "nano-1", "nano-0"))
    loop.run_probes(run_of(tmp_path, "nano-2", "nano-0"))
    assert [path.name for path in opened] == ["nano-1", "nano-0", "nano-2"]
    earlier = store.scores("nano-0")[PROBES[0]]
    store.write(replace(earlier, prompts_sha256="0" * 64), store.items("nano-0", PROBES[0]))
    loop.run_probes(run_of(tmp_path, "nano-2", "nano-0"))
    assert [path.name for path in opened][3:] == ["nano-0"]
