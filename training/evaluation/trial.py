"""The canary as it runs: start it, look at the thumbs, renew its lease, end it. Resumable: a loop
that died goes on with the same start time, so no thumb is lost and the test stays one test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from training.evaluation.canary import CanaryConfig, Reading, Thumbs, Verdict, read_thumbs
from training.manifest import plain
from training.runs import write_json

COURSE = "course.jsonl"
START = "start.json"
END = "end.json"


class CandidateState(StrEnum):
    """Where a version is in the rollout."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    STABLE = "stable"


@dataclass(frozen=True)
class RolloutView:
    """The versions that answer. `candidate` is empty when there is none."""

    stable: str
    candidate: str
    candidate_state: CandidateState
    candidate_reason: str = ""

    def state_of(self, version: str) -> CandidateState:
        if version == self.stable:
            return CandidateState.STABLE
        return self.candidate_state if version == self.candidate else CandidateState.ABSENT


class Rollout(Protocol):
    """Which version answers. Every call may be repeated."""

    def view(self) -> RolloutView: ...

    def start(self, version: str, directory: Path, share: float, lease_seconds: float) -> None: ...

    def renew(self, version: str, lease_seconds: float) -> None: ...

    def finish(self, version: str, verdict: Verdict, reason: str) -> None: ...


class ThumbCounter(Protocol):
    """Standing thumbs by version since a time."""

    def count(self, since: datetime) -> dict[str, Thumbs]: ...


class Clock(Protocol):
    """Time, so that a test need not wait."""

    def now(self) -> datetime: ...

    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class TrialEnd:
    """How the canary ended."""

    verdict: Verdict
    reason: str
    started: str
    ended: str
    looks: int
    last: Reading | None


def run_trial(
    version: str,
    model_directory: Path,
    config: CanaryConfig,
    rollout: Rollout,
    thumbs: ThumbCounter,
    clock: Clock,
    record: Path,
    watch: Callable[[Reading, float], None],
) -> TrialEnd:
    """Give the version its share of the users until their thumbs decide or time is over.

    Args:
        record: directory that keeps the start time and the course, one line a look.
        watch: told every reading and the fraction of the longest time that has passed.
    """
    if (ended := _ended(record)) is not None:
        rollout.finish(version, ended.verdict, ended.reason)
        return ended
    incumbent, since = _begin(version, model_directory, config, rollout, clock, record)
    looks = 0

    def end(verdict: Verdict, reason: str, last: Reading | None) -> TrialEnd:
        ended = TrialEnd(verdict, reason, since.isoformat(), clock.now().isoformat(), looks, last)
        write_json(
            record / END, plain(ended)
        )  # before the act: a loop killed in between acts again, not anew
        rollout.finish(version, verdict, reason)
        return ended

    while True:
        if (lost := _lost(rollout.view(), version)) is not None:
            return end(Verdict.ROLL_BACK, lost, None)
        counts = thumbs.count(since)
        reading = read_thumbs(
            counts.get(version, Thumbs()), counts.get(incumbent, Thumbs()), config
        )
        looks += 1
        passed = (clock.now() - since) / timedelta(seconds=config.max_seconds)
        _note(record, reading, clock)
        watch(reading, min(passed, 1.0))
        if reading.verdict is not Verdict.WAIT:
            return end(reading.verdict, reading.reason, reading)
        if passed >= 1:
            reason = f"undecided after {config.max_seconds:.0f} s, so the incumbent stays: {reading.reason}"
            return end(Verdict.ROLL_BACK, reason, reading)
        rollout.renew(version, config.lease_seconds)
        clock.sleep(config.poll_seconds)


def _begin(
    version: str,
    directory: Path,
    config: CanaryConfig,
    rollout: Rollout,
    clock: Clock,
    record: Path,
) -> tuple[str, datetime]:
    """Start, or take up again after a restart; returns the incumbent and since when thumbs count."""
    view, start = rollout.view(), record / START
    # Also after a restart: the lease may have ended meanwhile and taken the candidate's traffic.
    if view.state_of(version) is CandidateState.ABSENT:
        rollout.start(version, directory, config.share, config.lease_seconds)
    if not start.exists():
        # Only now: the time of a trial that could not begin must not run.
        record.mkdir(parents=True, exist_ok=True)
        write_json(
            start, {"version": version, "incumbent": view.stable, "since": clock.now().isoformat()}
        )
    begun = json.loads(start.read_text())
    return begun["incumbent"], datetime.fromisoformat(begun["since"])


def _lost(view: RolloutView, version: str) -> str | None:
    state = view.state_of(version)
    if state is CandidateState.FAILED:
        return f"the model server could not serve it: {view.candidate_reason}"
    if state is CandidateState.ABSENT:
        return "somebody else took it off, or its lease ended"
    return None


def _ended(record: Path) -> TrialEnd | None:
    path = record / END
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    last = fields["last"]
    if last is not None:
        arms = {arm: Thumbs(**last[arm]) for arm in ("candidate", "incumbent")}
        last = Reading(**{**last, **arms, "verdict": Verdict(last["verdict"])})
    return TrialEnd(**{**fields, "verdict": Verdict(fields["verdict"]), "last": last})


def _note(record: Path, reading: Reading, clock: Clock) -> None:
    with (record / COURSE).open("a") as opened:
        opened.write(json.dumps({"time": clock.now().isoformat(), **asdict(reading)}) + "\n")


class WallClock:
    """The real one."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds)
