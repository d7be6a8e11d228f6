"""Metrics of the training loop, from files as written by the loop."""

import io
import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from services.gateway.http.loop_files import LoopMetrics
from training.evaluation.gate import Check, Result
from training.reporting.progress import Lines, ProgressReporter


def board(loop: Path) -> ProgressReporter:
    return ProgressReporter(loop, Lines(io.StringIO()), "small-7", "small", ("snapshot", "gate"))


def scraped(loop: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(LoopMetrics(loop))
    return registry


def test_no_series_before_the_first_run(tmp_path: Path) -> None:
    assert list(scraped(tmp_path).collect()) == []


def test_running_run_has_no_result(tmp_path: Path) -> None:
    with board(tmp_path).step("snapshot"):
        pass
    found = scraped(tmp_path)
    assert found.get_sample_value("thumbwheel_loop_running") == 1
    assert (
        found.get_sample_value(
            "thumbwheel_loop_turn_result", {"recipe": "small", "result": "promoted"}
        )
        == 0
    )
    assert found.get_sample_value("thumbwheel_loop_step_progress_ratio", {"step": "snapshot"}) == 1
    assert found.get_sample_value("thumbwheel_loop_step_progress_ratio", {"step": "gate"}) == 0
    assert (found.get_sample_value("thumbwheel_loop_updated_time_seconds") or 0) > 1_700_000_000


def test_ended_run_reports_its_result_and_gate_checks(tmp_path: Path) -> None:
    board(tmp_path).finish("rolled back", "users like it less", None)
    accuracy = Check(
        "reward model beats a coin",
        "0.812 ± 0.021 on 90 pairs of 40 prompts",
        "0.5",
        Result.PASS,
        "",
    )
    rise = Check(
        "perplexity on fixed texts", "-0.120 ± 0.010 bits per byte", "0.1", Result.FAIL, ""
    )
    unclear = Check("arc_easy", "0.25 against 0.25", "0.02", Result.UNINFORMATIVE, "")
    gate = tmp_path / "runs" / "small-7" / "gate.json"
    gate.parent.mkdir(parents=True)
    gate.write_text(
        json.dumps(
            {
                "passed": False,
                "reason": "",
                "checks": [accuracy.fields(), rise.fields(), unclear.fields()],
            }
        )
    )
    found = scraped(tmp_path)
    assert found.get_sample_value("thumbwheel_loop_running") == 0
    assert (
        found.get_sample_value(
            "thumbwheel_loop_turn_result", {"recipe": "small", "result": "rolled_back"}
        )
        == 1
    )
    assert found.get_sample_value("thumbwheel_loop_check_value", {"check": accuracy.name}) == 0.812
    assert found.get_sample_value("thumbwheel_loop_check_value", {"check": rise.name}) == -0.12
    assert found.get_sample_value("thumbwheel_loop_check_passed", {"check": accuracy.name}) == 1
    assert found.get_sample_value("thumbwheel_loop_check_passed", {"check": rise.name}) == 0
    assert found.get_sample_value("thumbwheel_loop_check_value", {"check": unclear.name}) == 0.25
    assert found.get_sample_value("thumbwheel_loop_check_passed", {"check": unclear.name}) is None


@pytest.mark.parametrize("result", ["held", "refused"])
def test_a_result_of_the_gate_is_a_label(tmp_path: Path, result: str) -> None:
    board(tmp_path).finish(result, "", None)
    labels = {"recipe": "small", "result": result}
    assert scraped(tmp_path).get_sample_value("thumbwheel_loop_turn_result", labels) == 1


def test_invalid_files_do_not_break_the_metrics(
    tmp_path: Path,
) -> None:
    board(tmp_path).finish("refused", "", None)
    whole = json.loads((tmp_path / "status.json").read_text())
    for text in (
        "",
        "[]",
        "{}",
        '{"run": 1',
        json.dumps({**whole, "updated": "noon"}),
        json.dumps({**whole, "steps": 1}),
    ):
        (tmp_path / "status.json").write_text(text)
        assert list(scraped(tmp_path).collect()) == []
    (tmp_path / "status.json").write_text(json.dumps({**whole, "run": "../../etc"}))
    assert scraped(tmp_path).get_sample_value("thumbwheel_loop_running") == 0
