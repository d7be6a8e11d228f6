"""Execution of the canary: it ends by itself, renews its lease, and survives a killed loop."""

from pathlib import Path

import pytest

from tests.training.fake_rollout import FakeClock, FakeRollout, GrowingThumbs
from training.evaluation.canary import CanaryConfig, Reading, Thumbs, Verdict
from training.evaluation.canary_run import CanaryResult, serve_canary
from training.runs import HaltedError

CONFIG = CanaryConfig(share=0.5, poll_seconds=5, lease_seconds=60, max_seconds=600, min_users=20)


class Stopped(Exception):
    """Simulated kill -9 of the loop."""


class Trial:
    """Canary of nano-1 against nano-0 whose loop may be killed at a poll."""

    def __init__(self, record: Path, candidate: float, incumbent: float = 0.5) -> None:
        self.clock = FakeClock()
        self.rollout = FakeRollout(self.clock)
        self.thumbs = GrowingThumbs({"nano-0": incumbent, "nano-1": candidate})
        self.record, self.kill_at = record, 0
        self.seen: list[Reading] = []

    def run(self, config: CanaryConfig = CONFIG) -> CanaryResult:
        return serve_canary(
            "nano-1",
            Path("/models/nano-1"),
            config,
            self.rollout,
            self.thumbs,
            self.clock,
            self.record,
            self.watch,
        )

    def watch(self, reading: Reading, passed: float) -> None:
        assert 0 <= passed <= 1
        self.seen.append(reading)
        if len(self.seen) == self.kill_at:
            raise Stopped


def test_a_better_version_becomes_stable(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.9)
    end = trial.run()
    assert end.verdict is Verdict.PROMOTE
    assert trial.rollout.stable == "nano-1"
    assert trial.rollout.calls == ["start nano-1 0.5", "promote nano-1"]
    assert len((tmp_path / "course.jsonl").read_text().splitlines()) == end.looks


def test_worse_version_is_rolled_back(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.1)
    end = trial.run()
    assert end.verdict is Verdict.ROLL_BACK
    assert end.last is not None
    assert (end.last.verdict, end.last.reason) == (Verdict.ROLL_BACK, end.reason)
    assert "10%" in end.reason
    assert (trial.rollout.stable, trial.rollout.candidate) == ("nano-0", "")


def test_undecided_canary_is_rolled_back_after_its_time(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.5)
    end = trial.run()
    assert end.verdict is Verdict.ROLL_BACK
    assert end.last is not None
    assert end.last.verdict is Verdict.WAIT
    assert "600" in end.reason
    assert trial.rollout.stable == "nano-0"
    assert end.looks == 121  # the lease of 60 s was renewed until the end


def test_version_that_fails_to_load_is_rolled_back(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.9)
    trial.rollout = FakeRollout(trial.clock, loads=False)
    end = trial.run()
    assert (end.verdict, end.looks) == (Verdict.ROLL_BACK, 0)
    assert end.last is None
    assert "no memory" in end.reason  # the reason of the rollout


def test_canary_ended_by_an_operator_is_not_restarted(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.5)
    take_off = trial.watch

    def watch(reading: Reading, passed: float) -> None:
        take_off(reading, passed)
        trial.rollout.candidate = ""

    trial.watch = watch
    end = trial.run()
    assert (end.verdict, end.looks, end.last) == (Verdict.ROLL_BACK, 1, None)
    assert [call for call in trial.rollout.calls if call.startswith("start")] == [
        "start nano-1 0.5"
    ]


@pytest.mark.parametrize("away_seconds", [5, 500])
def test_restarted_loop_continues_the_same_canary(tmp_path: Path, away_seconds: int) -> None:
    trial = Trial(tmp_path, candidate=0.9)
    trial.kill_at = 1
    with pytest.raises(Stopped):
        trial.run()
    trial.clock.sleep(away_seconds)
    end = trial.run()
    assert end.verdict is Verdict.PROMOTE
    # no thumb is lost, and the test remains a single test
    assert len(set(trial.thumbs.asked_since)) == 1
    starts = [call for call in trial.rollout.calls if call.startswith("start")]
    assert len(starts) == (1 if away_seconds < CONFIG.lease_seconds else 2)


def test_loop_killed_during_the_decision_repeats_the_decision(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.1)
    first = trial.run()
    trial.thumbs = GrowingThumbs({"nano-0": 0.1, "nano-1": 0.9})
    assert trial.run() == first
    assert trial.rollout.calls == ["start nano-1 0.5", "roll_back nano-1", "roll_back nano-1"]


def test_time_starts_only_after_a_successful_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(tmp_path, candidate=0.9)

    def refuse(*_: object) -> None:
        raise Stopped

    with monkeypatch.context() as away:
        away.setattr(trial.rollout, "start", refuse)
        with pytest.raises(Stopped):
            trial.run()
    trial.clock.sleep(CONFIG.max_seconds + 1)
    assert trial.run().verdict is Verdict.PROMOTE


def test_thumbs_of_other_versions_do_not_count(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.5)
    trial.thumbs = GrowingThumbs({"nano-0": 0.5, "nano-7": 0.9})
    end = trial.run()
    assert end.last is not None
    assert end.last.candidate == Thumbs(0, 0)


def test_a_halt_during_the_canary_rolls_back_for_good(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.6)
    watch = trial.watch

    def halting(reading: Reading, passed: float) -> None:
        watch(reading, passed)
        trial.rollout.halt("odd answers")

    trial.watch = halting  # type: ignore[method-assign]
    end = trial.run()
    assert (end.verdict, end.looks) == (Verdict.ROLL_BACK, 1)
    assert "odd answers" in end.reason
    assert "promote nano-1" not in trial.rollout.calls
    trial.rollout.reason = None
    assert trial.run() == end
    assert trial.rollout.calls.count("start nano-1 0.5") == 1


def test_no_canary_begins_during_a_halt_and_it_begins_afterwards(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.9)
    trial.rollout.halt("odd answers")
    with pytest.raises(HaltedError):
        trial.run()
    assert trial.rollout.calls == []
    trial.rollout.reason = None
    assert trial.run().verdict is Verdict.PROMOTE


@pytest.mark.parametrize(("method", "candidate"), [("finish", 0.9), ("renew", 0.6)])
def test_a_halt_just_before_a_call_rolls_back_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, candidate: float
) -> None:
    trial = Trial(tmp_path, candidate)
    call, halted = getattr(trial.rollout, method), False

    def halting(*arguments: object) -> None:
        nonlocal halted
        # The first renewal is part of the start.
        if not halted and trial.seen:
            halted = True
            trial.rollout.halt("odd answers")
        call(*arguments)

    monkeypatch.setattr(trial.rollout, method, halting)
    end = trial.run()
    assert end.verdict is Verdict.ROLL_BACK
    assert "odd answers" in end.reason
    assert trial.rollout.stable == "nano-0"
    trial.rollout.reason = None
    assert trial.run() == end


def test_a_recorded_promotion_of_a_removed_candidate_ends_as_rolled_back(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.9)
    assert trial.run().verdict is Verdict.PROMOTE
    # As if the loop had been killed between the record and the call, and the lease had expired.
    trial.rollout = FakeRollout(trial.clock)
    end = trial.run()
    assert (end.verdict, trial.rollout.stable) == (Verdict.ROLL_BACK, "nano-0")
    assert trial.run() == end


def test_a_halt_while_the_version_loads_leaves_the_canary_for_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(tmp_path, candidate=0.9)
    start = trial.rollout.start

    def halting(version: str, directory: Path, share: float, lease_seconds: float) -> None:
        trial.rollout.halt("odd answers")
        start(version, directory, share, lease_seconds)

    with monkeypatch.context() as during:
        during.setattr(trial.rollout, "start", halting)
        with pytest.raises(HaltedError):
            trial.run()
    trial.rollout.reason = None
    assert trial.run().verdict is Verdict.PROMOTE
