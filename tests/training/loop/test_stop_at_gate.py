"""The end of a run whose candidate the gate refuses or holds."""

from pathlib import Path

import pytest

from tests.training.state_folder import StateFolder
from training.evaluation.gate import Check, Decision, Result
from training.loop import stop_at_gate
from training.reporting.lineage import describe_version
from training.runs import Runs, StepState, read_status

UNSURE = Check("win rate", "0.51", "above 0.5", Result.NOT_ENOUGH_DATA, "judged")
FAILED = Check("knowledge", "0.20", "above 0.5", Result.FAIL, "facts")


@pytest.mark.parametrize(
    ("rows", "result"), [((UNSURE,), "held"), ((FAILED,), "refused"), ((UNSURE, FAILED), "refused")]
)
def test_every_record_of_the_run_has_the_verdict(
    tmp_path: Path, rows: tuple[Check, ...], result: str
) -> None:
    kept = StateFolder(tmp_path)
    kept.chat("ann", "bob")
    run = kept.begin("nano-1")
    decision = Decision(rows)
    ended = stop_at_gate(run, decision)
    assert ended.result == result
    assert ended.reason == decision.reason
    assert Runs(kept.loop).result("nano-1") == ended
    assert kept.registry.history()[-1].stage.value == result
    status = read_status(kept.loop)
    assert status is not None
    assert {step.name: step.state for step in status.steps}["gate"] is StepState(result)
    account = describe_version("nano-1", kept.loop, kept.registry)
    assert f"gate        {decision.reason}" in account
    assert f"{result} at {ended.ended}: {rows[0].name}" in account
    report = (kept.loop / "runs" / "nano-1" / "report.html").read_text()
    assert f"<title>nano-1: {result}</title>" in report


def test_the_reason_of_a_held_candidate_names_the_next_step() -> None:
    assert "run the loop again" in Decision((UNSURE,)).reason
    assert "run the loop again" not in Decision((UNSURE, FAILED)).reason
