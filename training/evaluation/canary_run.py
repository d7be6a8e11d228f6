"""Execution of a canary: start, poll figures, raise the share, renew the lease, finish.

A restarted loop continues with the same start time, so no thumb is lost and the test remains a
single test.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from durable_files.files import make_directory, publish, write_json
from durable_files.json_lines import append_lines
from sequential.figures import Approval, VersionFigures
from sequential.rows import Row
from training.artifacts.manifest import plain
from training.errors import UnavailableError
from training.evaluation.canary import CanaryConfig, Reading, Verdict, evaluate
from training.runs import HaltedError

COURSE = "course.jsonl"
START = "start.json"
END = "end.json"
DONE = "done"  # its presence means that the result in END has been applied
REFUSED = "FAILED_PRECONDITION"  # reason of the error of a call that the rollout's state forbids


class CandidateState(StrEnum):
    """State of a version in the rollout."""

    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    STABLE = "stable"


@dataclass(frozen=True)
class RolloutView:
    """Versions in use.

    `candidate` is "" without a candidate. `halt` is the reason of an operator who has halted the
    rollout, None otherwise. `undone` has the reason of each promotion that the generator's watch
    has rolled back. `share` is the candidate's share of the users. `previous` is the version before
    a promotion that is watched, "" otherwise.
    """

    stable: str
    candidate: str
    candidate_state: CandidateState
    candidate_reason: str = ""
    halt: str | None = None
    undone: Mapping[str, str] = field(default_factory=dict)
    share: float = 0.0
    previous: str = ""

    def state_of(self, version: str) -> CandidateState:
        """Return the state of a version."""
        if version == self.stable:
            return CandidateState.STABLE
        return self.candidate_state if version == self.candidate else CandidateState.ABSENT


class RolloutControl(Protocol):
    """Control of the generator's rollout.

    Every call may be repeated. Calls raise UnavailableError, with the reason REFUSED if the state
    of the rollout forbids the call.
    """

    def view(self) -> RolloutView: ...

    def start(self, version: str, directory: Path, share: float, lease_seconds: float) -> None: ...

    def renew(self, version: str, lease_seconds: float) -> None: ...

    def finish(self, version: str, verdict: Verdict, reason: str) -> None: ...

    def traffic(self, versions: Sequence[str]) -> Mapping[str, VersionFigures]:
        """Return the traffic of versions; counts only grow. Empty without the generator's help."""
        ...


class FeedbackCounts(Protocol):
    """Counts feedback on versions."""

    def version_feedback(
        self, versions: Sequence[str], since: datetime
    ) -> Mapping[str, VersionFigures]:
        """Return users' shares and rates by version, of answers since a time.

        Versions without feedback may be absent; with an earlier service all are.
        """
        ...


class Clock(Protocol):
    """Time source, replaceable in tests."""

    def now(self) -> datetime: ...

    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class CanaryResult:
    """Result of a canary."""

    verdict: Verdict
    reason: str
    started: str
    ended: str
    looks: int
    last: Reading | None


@dataclass(frozen=True)
class CanaryStart:
    """Start of a canary.

    `traffic` contains the counts of both versions at the start, None after a start by a release
    without them.
    """

    incumbent: str
    since: datetime
    traffic: Mapping[str, VersionFigures] | None


def serve_canary(
    version: str,
    model_directory: Path,
    config: CanaryConfig,
    rollout: RolloutControl,
    feedback: FeedbackCounts,
    clock: Clock,
    record: Path,
    watch: Callable[[Reading, float], None],
) -> CanaryResult:
    """Serve the version to a rising share of users until a decision or the end of the time.

    Args:
        record: directory for the start and for one line per poll.
        watch: called with every reading and the elapsed fraction of the maximum time.

    Raises:
        HaltedError: the canary has not begun, and an operator has halted the rollout. A canary that
            has begun is rolled back instead.
    """
    if (ended := _ended(record)) is not None:
        return _finish(version, ended, rollout, record)
    begun = _begin(version, model_directory, config, rollout, clock, record)
    since, looks = begun.since, 0

    def end(verdict: Verdict, reason: str, last: Reading | None) -> CanaryResult:
        ended = CanaryResult(
            verdict, reason, since.isoformat(), clock.now().isoformat(), looks, last
        )
        return _finish(version, ended, rollout, record)

    while True:
        view = rollout.view()
        if (lost := _lost(view, version)) is not None:
            return end(Verdict.ROLL_BACK, lost, None)
        figures = _figures((version, begun.incumbent), begun, rollout, feedback)
        reading = evaluate(figures[version], figures[begun.incumbent], config)
        looks += 1
        seconds = (clock.now() - since).total_seconds()
        passed = seconds / config.max_seconds
        _note(record / COURSE, reading, view.share, clock.now())
        watch(reading, min(passed, 1.0))
        if reading.verdict is not Verdict.WAIT:
            return end(reading.verdict, reading.reason, reading)
        if passed >= 1:
            late = f"undecided after {config.max_seconds:.0f} s, so the incumbent stays"
            return end(Verdict.ROLL_BACK, f"{late}: {reading.reason}", reading)
        try:
            share = config.share_after(figures[version].requests, seconds)
            # The service stores shares with single precision.
            if view.share < share - 1e-6:
                rollout.start(version, model_directory, share, config.lease_seconds)
            else:
                rollout.renew(version, config.lease_seconds)
        except UnavailableError as error:
            if _lost_by(error, version, rollout) is None:
                raise
            continue  # the next view ends the canary
        clock.sleep(config.poll_seconds)


def archive_finished(record: Path) -> Path | None:
    """Move the record of a finished canary aside, so that the version is measured again.

    A record without DONE is of an interrupted canary, which continues, or whose result is applied
    once more.

    Returns:
        The new place, None if the record stays. Names of versions have no `@`.
    """
    if not (record / DONE).exists():
        return None
    ended = datetime.fromisoformat(json.loads((record / END).read_text())["ended"])
    target = record.with_name(f"{record.name}@{ended:%Y-%m-%dT%H-%M-%S.%f}")
    publish(record, target)
    return target


def _begin(
    version: str,
    directory: Path,
    config: CanaryConfig,
    rollout: RolloutControl,
    clock: Clock,
    record: Path,
) -> CanaryStart:
    """Start or resume the canary."""
    view, start = rollout.view(), record / START
    if view.halt is not None and not start.exists():
        raise HaltedError(view.halt)
    # Also after a restart, because the lease may have expired.
    if view.halt is None and view.state_of(version) is CandidateState.ABSENT:
        try:
            rollout.start(version, directory, config.share_after(0, 0.0), config.lease_seconds)
        except UnavailableError as error:
            # The halt may come while the version loads.
            halt = rollout.view().halt if error.reason == REFUSED else None
            if halt is None:
                raise
            if not start.exists():
                raise HaltedError(halt) from error
    if not start.exists():
        # Time starts after a successful start of the canary.
        make_directory(record)
        traffic = rollout.traffic((version, view.stable))
        facts = {"version": version, "incumbent": view.stable, "since": clock.now().isoformat()}
        counts = {name: asdict(found) for name, found in traffic.items()}
        write_json(start, {**facts, "traffic": counts})
    begun = json.loads(start.read_text())
    counts = begun.get("traffic")
    return CanaryStart(
        begun["incumbent"],
        datetime.fromisoformat(begun["since"]),
        None if counts is None else {name: _traffic(found) for name, found in counts.items()},
    )


def _traffic(found: Mapping[str, Any]) -> VersionFigures:
    """Return the traffic of a version from JSON, whose keys are strings."""

    def bins(name: str) -> dict[int, int]:
        return {int(k): count for k, count in found[name].items()}

    return VersionFigures(
        requests=found["requests"],
        errors=found["errors"],
        first_text_ms=bins("first_text_ms"),
        answer_tokens=bins("answer_tokens"),
        total_tokens=bins("total_tokens"),
    )


def _figures(
    versions: Sequence[str], begun: CanaryStart, rollout: RolloutControl, feedback: FeedbackCounts
) -> dict[str, VersionFigures]:
    """Return the figures of the versions since the start."""
    counts = feedback.version_feedback(versions, begun.since)
    traffic = rollout.traffic(versions) if begun.traffic is not None else {}
    none = VersionFigures()
    found = {}
    for name in versions:
        since = traffic.get(name, none).traffic_since((begun.traffic or {}).get(name, none))
        found[name] = since.with_feedback(counts.get(name, none))
    return found


def _note(course: Path, reading: Reading, share: float, now: datetime) -> None:
    """Append a line; of the rows only the evidence, because a canary has thousands of lines."""
    evidence = {row.name: float(f"{row.e_worse:.3g}") for row in reading.rows}
    line = {"time": now.isoformat(), **asdict(reading), "rows": evidence, "share": share}
    append_lines(course, [line], sync=False)


def _finish(
    version: str, ended: CanaryResult, rollout: RolloutControl, record: Path
) -> CanaryResult:
    """Write and apply the result; return ROLL_BACK if the candidate was removed before."""
    # Written before the call, so that a killed loop repeats the call and not the decision.
    write_json(record / END, plain(ended))
    try:
        rollout.finish(version, ended.verdict, ended.reason)
    except UnavailableError as error:
        lost = _lost_by(error, version, rollout)
        if ended.verdict is not Verdict.PROMOTE or lost is None:
            raise
        ended = replace(ended, verdict=Verdict.ROLL_BACK, reason=f"not promoted: {lost}")
        return _finish(version, ended, rollout, record)
    return ended


def _lost_by(error: UnavailableError, version: str, rollout: RolloutControl) -> str | None:
    """Return why the version is no candidate after a refused call, None after other errors."""
    return _lost(rollout.view(), version) if error.reason == REFUSED else None


def _lost(view: RolloutView, version: str) -> str | None:
    state = view.state_of(version)
    if state is CandidateState.FAILED:
        return f"the model server failed to load the version: {view.candidate_reason}"
    if state is CandidateState.ABSENT and view.halt is not None:
        return f"halted by an operator: {view.halt}"
    if state is CandidateState.ABSENT:
        return "the canary was ended by another client, or its lease expired"
    return None


def _ended(record: Path) -> CanaryResult | None:
    path = record / END
    if not path.exists():
        return None
    fields = json.loads(path.read_text())
    last = fields["last"]
    if last is not None:
        arms = {arm: approval_of(last[arm]) for arm in ("candidate", "incumbent")}
        # Records of earlier releases have no rows.
        rows = tuple(
            Row(**{**row, "verdict": Verdict(row["verdict"])}) for row in last.get("rows", ())
        )
        last = Reading(**{**last, **arms, "verdict": Verdict(last["verdict"]), "rows": rows})
    return CanaryResult(**{**fields, "verdict": Verdict(fields["verdict"]), "last": last})


def approval_of(fields: Mapping[str, Any]) -> Approval:
    """Return the approval in a record; earlier releases counted users by their majority."""
    if "up" not in fields:
        return Approval(**fields)
    users = fields["up"] + fields["down"]
    return Approval(users, fields["up"] / users if users else 0.0)


class WallClock:
    """System time, with the given sleep function."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep

    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        self._sleep(seconds)
