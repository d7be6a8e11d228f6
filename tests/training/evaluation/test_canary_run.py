"""Execution of the canary: it ends by itself, renews its lease, and survives a killed loop."""

import json
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest

from sequential.figures import Approval, RateSums, VersionFigures
from tests.training.fake_rollout import FakeClock, FakeRollout, GrowingThumbs
from training.artifacts.registry import VERSION
from training.evaluation.canary import CanaryConfig, Reading, Verdict
from training.evaluation.canary_run import (
    DONE,
    END,
    CanaryResult,
    archive_finished,
    serve_canary,
)
from training.runs import HaltedError

CONFIG = CanaryConfig(
    share=0.5, poll_seconds=15, lease_seconds=60, max_seconds=600, min_users=20, steps=()
)


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
    assert end.looks == 41  # the lease of 60 s was renewed until the end


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


def test_only_the_record_of_a_finished_canary_is_archived(tmp_path: Path) -> None:
    record = tmp_path / "nano-1"
    assert archive_finished(record) is None
    first = Trial(record, candidate=0.1).run()
    assert archive_finished(record) is None, "the result may not be applied yet"
    (record / DONE).touch()
    earlier = archive_finished(record)
    assert earlier is not None and earlier.parent == tmp_path and not record.exists()
    assert not VERSION.fullmatch(earlier.name)
    again = Trial(record, candidate=0.9)
    assert (first.verdict, again.run().verdict) == (Verdict.ROLL_BACK, Verdict.PROMOTE)
    assert json.loads((earlier / END).read_text())["verdict"] == Verdict.ROLL_BACK


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
    assert end.last.candidate == Approval(0, 0.0)


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


def traffic(requests: int, errors: int = 0) -> VersionFigures:
    return VersionFigures(requests=requests, errors=errors, first_text_ms={120: requests - errors})


def test_share_rises_by_steps_with_requests_of_the_candidate(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.5)
    config = replace(
        CONFIG, share=0.3, steps=(0.02, 0.05, 0.5), step_requests=100, step_seconds=10_000
    )
    trial.rollout.counts["nano-1"] = traffic(5)  # from before the canary
    requests = iter([5, 45, 104, 105, 155, 225])

    def watch(reading: Reading, passed: float) -> None:
        trial.rollout.counts["nano-1"] = traffic(next(requests, 5_000))

    trial.watch = watch  # type: ignore[method-assign]
    trial.run(config)
    starts = [call for call in trial.rollout.calls if call.startswith("start")]
    # A step above the share of the canary is left out.
    assert starts == ["start nano-1 0.02", "start nano-1 0.05", "start nano-1 0.3"]
    lines = [json.loads(line) for line in (tmp_path / "course.jsonl").read_text().splitlines()]
    assert [line["share"] for line in lines[:8]] == [0.02] * 5 + [0.05] * 2 + [0.3]


def test_share_rises_with_time_if_requests_are_few(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.5)
    trial.run(replace(CONFIG, steps=(0.02,), step_seconds=60))
    assert trial.rollout.calls[:2] == ["start nano-1 0.02", "start nano-1 0.5"]


def test_harm_is_rolled_back_within_a_minute_and_before_the_next_step(tmp_path: Path) -> None:
    """Count from the first poll that could show the harm; counts are at most 15 s old."""
    trial = Trial(tmp_path, candidate=0.5)
    harmed = []

    def watch(reading: Reading, passed: float) -> None:
        trial.rollout.counts = {"nano-0": traffic(40_000), "nano-1": traffic(900, errors=90)}
        harmed.append(trial.clock.now())

    trial.watch = watch  # type: ignore[method-assign]
    end = trial.run(replace(CanaryConfig(), max_seconds=3_600))
    assert end.verdict is Verdict.ROLL_BACK
    assert end.reason.startswith("errors")
    assert trial.clock.now() - harmed[0] <= timedelta(seconds=60 - 15)
    assert trial.rollout.calls == ["start nano-1 0.02", "roll_back nano-1"]
    assert trial.rollout.candidate == ""


def test_traffic_before_the_canary_does_not_count_even_after_a_restart(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.5)
    trial.rollout.counts = {
        "nano-0": traffic(50_000, errors=100),
        "nano-1": traffic(2_000, errors=1_900),
    }
    trial.kill_at = 2
    with pytest.raises(Stopped):
        trial.run()
    trial.rollout.counts = {
        "nano-0": traffic(51_000, errors=102),
        "nano-1": traffic(2_500, errors=1_901),
    }
    end = trial.run()
    assert end.last is not None
    rows = {row.name: row for row in end.last.rows}
    assert (rows["errors"].candidate, rows["errors"].incumbent) == (
        "0.20% of 500 requests",
        "0.20% of 1,000 requests",
    )
    assert "p50" in rows["first text p50"].candidate
    assert rows["errors"].verdict is Verdict.WAIT


def test_canary_that_an_earlier_release_started_uses_thumbs_only(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.9)
    trial.kill_at = 1
    with pytest.raises(Stopped):
        trial.run()
    start = json.loads((tmp_path / "start.json").read_text())
    del start["traffic"]
    (tmp_path / "start.json").write_text(json.dumps(start))
    trial.rollout.counts = {"nano-0": traffic(50_000), "nano-1": traffic(2_000, errors=1_900)}
    end = trial.run()
    assert end.verdict is Verdict.PROMOTE
    assert end.last is not None
    assert {row.candidate for row in end.last.rows if row.name != "thumbs"} == {"none"}


def test_rates_by_user_roll_back_and_all_rows_are_recorded(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.5)
    trial.thumbs.sums = {
        "nano-0": {"refused": RateSums(4_000, 8_000, 80, 16_000, 80, 160)},
        "nano-1": {"refused": RateSums(1_000, 2_000, 200, 4_000, 200, 400)},
    }
    end = trial.run()
    assert end.verdict is Verdict.ROLL_BACK
    assert end.reason.startswith("refused")
    found = json.loads((tmp_path / "end.json").read_text())["last"]
    assert end.last is not None
    assert found["rows"] == json.loads(json.dumps([asdict(row) for row in end.last.rows]))
    assert {"candidate", "incumbent", "e_better", "e_worse", "verdict", "reason"} <= found.keys()
    line = json.loads((tmp_path / "course.jsonl").read_text().splitlines()[-1])
    assert line["rows"]["refused"] > 1_000
    assert line["candidate"] == {"users": 10, "share": 0.5}
    # The record is read again, for example after a kill during the decision.
    assert trial.run() == end


def test_record_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    trial = Trial(tmp_path, candidate=0.1)
    first = trial.run()
    record = json.loads((tmp_path / "end.json").read_text())
    del record["last"]["rows"]
    for arm in ("candidate", "incumbent"):
        found = record["last"][arm]
        up = round(found["users"] * found["share"])
        record["last"][arm] = {"up": up, "down": found["users"] - up}
    (tmp_path / "end.json").write_text(json.dumps(record))
    again = trial.run()
    assert again.last is not None
    assert first.last is not None
    assert again.last == replace(first.last, rows=())
