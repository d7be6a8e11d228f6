"""Versions of the loop for the page and for metrics, from files as written by training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from durable_files.files import write_json
from services.gateway.http import version_files
from services.gateway.http.version_files import EvaluationMetrics, read, read_versions
from training.artifacts.manifest import write_manifest
from training.artifacts.scores import ItemScore, ScoreStore, TaskScore
from training.evaluation.gate import Check, Result
from training.runs import RunRecord, RunResult, Runs

SCORE = TaskScore("nano-1", "piqa", "acc_norm", 0.5, 0.1, 2, "a" * 64, "b" * 64)
SNAPSHOT = "snapshot-0123456789ab"


def loop_with_runs(directory: Path) -> None:
    """Write two runs, of which the first has a snapshot, a verdict and a score."""
    runs = Runs(directory)
    snapshot = runs.snapshots / SNAPSHOT
    snapshot.mkdir(parents=True)
    write_manifest(
        snapshot,
        kind="snapshot",
        version=SNAPSHOT,
        report={
            "thumbs_up": 7,
            "thumbs_down": 3,
            "corrections": 1,
            "principals": 4,
            "segments": {},
        },
    )
    runs.begin(RunRecord("nano-1", "nano", "nano-0", SNAPSHOT, "2026-11-01T00:00:00+00:00"))
    runs.begin(RunRecord("nano-2", "nano", "nano-1", "snapshot-ffff", "2026-11-02T00:00:00+00:00"))
    check = Check("win rate", "0.8", "0.5", Result.PASS, "people prefer it")
    write_json(
        runs.directory("nano-1") / "gate.json",
        {"passed": True, "reason": "all checks passed", "checks": [check.fields()]},
    )
    runs.end("nano-1", RunResult("promoted", "higher approval", "2026-11-01T01:00:00+00:00"))
    store = ScoreStore(directory)
    store.write(SCORE, [ItemScore("0", 1.0), ItemScore("1", 0.0)])
    store.write(replace(SCORE, version="nano-0", value=0.25), [])


def test_versions_show_origin_verdict_and_scores_newest_first(tmp_path: Path) -> None:
    loop_with_runs(tmp_path)
    newest, older, base = read_versions(tmp_path)
    assert (newest["version"], newest["incumbent"], newest["result"]) == ("nano-2", "nano-1", None)
    assert newest["snapshot"] == {"id": "snapshot-ffff", "is_stored": False, "erasures": 0}
    assert older["snapshot"] == {
        "id": SNAPSHOT,
        "is_stored": True,
        "erasures": 0,
        "thumbs_up": 7,
        "thumbs_down": 3,
        "corrections": 1,
        "principals": 4,
    }
    assert older["result"]["result"] == "promoted"
    assert older["gate"]["checks"][0]["name"] == "win rate"
    assert [(score["task"], score["value"]) for score in older["scores"]] == [("piqa", 0.5)]
    assert base == {"version": "nano-0", "scores": [{**base["scores"][0], "value": 0.25}]}


def test_damaged_files_hide_only_their_own_facts(tmp_path: Path) -> None:
    loop_with_runs(tmp_path)
    (tmp_path / "runs" / "nano-1" / "gate.json").write_text("[")
    (tmp_path / "snapshots" / SNAPSHOT / "manifest.json").write_text("{")
    (tmp_path / "evaluations" / "nano-1" / "piqa.json").write_text("0")
    (tmp_path / "runs" / "nano-2" / "run.json").unlink()
    (found, *_) = read_versions(tmp_path)
    assert (found["version"], found["gate"], found["scores"]) == ("nano-1", None, [])
    assert found["snapshot"]["is_stored"] is False
    assert found["result"]["result"] == "promoted"


def test_names_cannot_leave_the_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write_json(outside / "manifest.json", {"report": {"thumbs_up": 1}})
    loop = tmp_path / "loop"
    Runs(loop).begin(RunRecord("nano-1", "nano", "nano-0", "../../outside", "2026"))
    (found,) = read_versions(loop)
    assert found["snapshot"] is None


def test_no_versions_before_the_first_run(tmp_path: Path) -> None:
    assert read_versions(tmp_path) == []
    assert list(EvaluationMetrics(tmp_path).collect()) == []


def test_scores_are_metrics_of_the_newest_versions(tmp_path: Path) -> None:
    loop_with_runs(tmp_path)
    damaged = tmp_path / "evaluations" / "nano-0" / "arc.json"
    damaged.write_text(json.dumps({"task": "arc", "metric": "acc", "value": "many"}))
    registry = CollectorRegistry()
    registry.register(EvaluationMetrics(tmp_path))
    labels = {"version": "nano-1", "task": "piqa", "metric": "acc_norm"}
    assert registry.get_sample_value("thumbwheel_evaluation_score", labels) == 0.5
    assert registry.get_sample_value("thumbwheel_evaluation_score_error", labels) == 0.1
    assert registry.get_sample_value("thumbwheel_evaluation_items", labels) == 2
    assert (
        registry.get_sample_value("thumbwheel_evaluation_score", {**labels, "version": "nano-0"})
        == 0.25
    )


def test_scores_are_read_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop_with_runs(tmp_path)
    asked: list[str] = []

    def counted(path: Path) -> Any:
        asked.append(f"{path.parent.name}/{path.name}")
        return read(path)

    monkeypatch.setattr(version_files, "read", counted)
    metrics = EvaluationMetrics(tmp_path)

    def values() -> dict[str, float]:
        (score, *_) = metrics.collect()
        return {sample.labels["version"]: sample.value for sample in score.samples}

    assert values() == {"nano-0": 0.25, "nano-1": 0.5}
    asked.clear()
    assert values() == {"nano-0": 0.25, "nano-1": 0.5}
    assert asked == []
    changed = tmp_path / "evaluations" / "nano-0" / "piqa.json"
    write_json(changed, {**json.loads(changed.read_text()), "value": 0.75})
    assert values() == {"nano-0": 0.75, "nano-1": 0.5}
    assert asked == ["nano-0/piqa.json"]
    changed.unlink()
    assert values() == {"nano-1": 0.5}


def test_a_canary_without_a_run_is_a_version_with_its_result(tmp_path: Path) -> None:
    loop_with_runs(tmp_path)
    for name, verdict, started in (
        ("worse", "roll_back", "2026-11-03T00:00:00+00:00"),
        ("nano-1", "roll_back", "2026-11-03T00:00:00+00:00"),
        ("good", "promote", "2026-10-31T00:00:00+00:00"),
        ("unfinished", "", ""),
    ):
        (tmp_path / "canaries" / name).mkdir(parents=True)
        if verdict:
            end = {"verdict": verdict, "reason": "lower approval", "started": started}
            write_json(tmp_path / "canaries" / name / "end.json", end)
    found = read_versions(tmp_path)
    assert [version["version"] for version in found] == [
        "worse",
        "nano-2",
        "nano-1",
        "good",
        "nano-0",
    ]
    assert found[0]["result"]["result"] == "rolled back"
    assert found[0]["result"]["reason"] == "lower approval"
    assert found[2]["result"]["result"] == "promoted"
    assert found[3]["result"]["result"] == "promoted"
