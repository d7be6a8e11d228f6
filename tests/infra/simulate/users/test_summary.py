"""The table shows all known results, even if the final comparison failed."""

from dataclasses import replace
from pathlib import Path

from infra.simulate.users.bounds import Counts
from infra.simulate.users.judgement import win_rate
from infra.simulate.users.summary import Claim, Outcome, lines
from infra.simulate.users.training_loop import LoopRun

TURN = LoopRun(
    version="nano-1",
    incumbent="nano-0",
    result="promoted",
    reason="more thumbs up",
    snapshot={"thumbs_up": 3, "thumbs_down": 2, "corrections": 1, "principals": 2, "dropped": {}},
    sets={
        "pairs": 4,
        "judge_pairs": 2,
        "held_out_pairs": 1,
        "label_noise": {"flipped": None},
        "held_out_ceiling": None,
    },
    health=None,
    gate=None,
    canary=None,
    step_seconds={"sft": 2.0},
    report=Path("report.html"),
)
OUTCOME = Outcome(
    Counts(up=3, down=2), Counts(), TURN, "nano-1", win_rate([[1.0]]), {"loop": 1.0}, ()
)


def row(outcome: Outcome, name: str) -> str:
    return next(line for line in lines(outcome) if line.startswith(name))


def test_failed_evaluation_keeps_the_other_rows() -> None:
    broken = Claim(
        "the new version was evaluated",
        False,
        "RESOURCE_EXHAUSTED: too much is under way (asked 9 times in 120 s)",
    )
    outcome = replace(OUTCOME, win_rate=None, claims=(broken,))
    assert not outcome.holds
    assert row(outcome, "result").endswith("promoted: more thumbs up")
    assert row(outcome, "win rate").endswith("unknown: the evaluation failed")
    assert list(lines(outcome))[-1] == f"FAILS  {broken.text}: {broken.seen}"


def test_win_rate_is_shown_only_after_a_promotion() -> None:
    assert row(OUTCOME, "win rate").endswith("100.0% (100.0% to 100.0%) on 1 held-out questions")
    refused = replace(OUTCOME, turn=replace(TURN, result="refused"), win_rate=None)
    assert row(refused, "win rate").endswith("not measured: no version was promoted")
