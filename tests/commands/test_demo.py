"""The claims of `make demo`: a better version is promoted, and the controls fail as expected."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.newcomer import Newcomer

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]
CONTROL = ".venv/bin/thumbwheel demo --recipe nano "


def read(file: Path) -> Any:
    return json.loads(file.read_text())


@pytest.mark.executes(
    "make demo RECIPE=nano",
    *(CONTROL + option for option in ("--shuffle-thumbs", "--worse", "--false-claims")),
)
def test_preferred_version_is_promoted_and_controls_are_not(newcomer: Newcomer) -> None:
    newcomer.run("make demo RECIPE=nano", seconds=1200)
    check_promotion(newcomer.clone / ".state" / "demo-nano")
    for control in ("--shuffle-thumbs", "--false-claims"):
        newcomer.run(CONTROL + control, seconds=900)
        check_refusal(newcomer.clone / ".state" / "demo-nano")
    newcomer.run(f"{CONTROL}--worse", seconds=600)
    check_rollback(newcomer.clone / ".state" / "demo-nano")


def check_promotion(state: Path) -> None:
    """Verify the claims from the files, independent of the demo's output."""
    seen = read(state / "demo.json")
    assert seen["win_rate"]["rate"] >= 0.65
    assert seen["crowd"]["up"] + seen["crowd"]["down"] == 1000
    run = state / "loop" / "runs" / "nano-1"
    assert read(run / "result.json")["result"] == "promoted"
    stable = read(state / "generator" / "rollout.json")["stable"]["version"]
    assert stable == seen["served"] == "nano-1"
    report = (run / "report.html").read_text()
    assert "nano-1" in report
    assert "promoted" in report
    assert seen["turn"]["health"]["reward_model"]["value"] > 0.5
    assert 0.5 < seen["turn"]["sets"]["held_out_ceiling"] < 1


def check_refusal(state: Path) -> None:
    # Held if an accuracy happens to be above 0.5.
    result = read(state / "loop" / "runs" / "nano-1" / "result.json")["result"]
    assert result in ("refused", "held")
    assert read(state / "generator" / "rollout.json")["stable"]["version"] == "nano-0"
    assert not (state / "models" / "nano-1").exists()


def check_rollback(state: Path) -> None:
    end = read(state / "loop" / "canaries" / "nano-0-worse" / "end.json")
    assert end["verdict"] == "roll_back"
    candidate, incumbent = end["last"]["candidate"], end["last"]["incumbent"]
    assert candidate["users"] > 0 < incumbent["users"]
    assert candidate["share"] < incumbent["share"]
    assert read(state / "generator" / "rollout.json")["stable"]["version"] == "nano-0"
