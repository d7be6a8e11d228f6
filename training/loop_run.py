"""A run of the loop: its environment, and how it begins, resumes and ends.

A run begins with a snapshot of the feedback, which later calls reopen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from durable_files.files import write_json
from training.artifacts.lineage import Ancestry, trace
from training.artifacts.manifest import (
    MANIFEST,
    finished_manifest,
    plain,
    read_manifest,
    write_manifest,
)
from training.artifacts.registry import Registry, RegistryError, VersionStage
from training.corpus.pii.judgements import redact_feedback
from training.data.feedback.catalogue import Objects
from training.data.feedback.sets import PAIR_ADVICE, TrainingSets, make_sets, write_sets
from training.data.feedback.snapshot import (
    Log,
    Snapshot,
    open_snapshot,
    people_of,
    read_feedback,
    take_snapshot,
)
from training.errors import DetailedError
from training.evaluation.canary import Verdict
from training.evaluation.canary_run import CandidateState, Clock, FeedbackCounts, RolloutControl
from training.evaluation.judges import Judge
from training.model_store.bucket import ModelBucket
from training.recipes.auto.run_plan import base_version, recorded_plan, with_data
from training.recipes.recipe import LoopConfig, Plan, Recipe
from training.recipes.requirements import check_requirements
from training.reporting.progress import Display, ProgressReporter
from training.reporting.run import write_report
from training.reporting.tracking import Tracking
from training.runs import RunRecord, RunResult, Runs

CONFIG = "config.json"


class NotEnoughFeedbackError(DetailedError, RuntimeError):
    """Too little or no new feedback; the text gives the found and the needed amount."""

    reason = "TOO_SMALL"


class Feedback(Log, FeedbackCounts, Protocol):
    """Calls of the feedback service that the loop uses."""


@dataclass(frozen=True)
class LoopEnvironment:
    """Services, folders and display of a run.

    Without a rollout, the run ends after the gate. `halt_reason` returns the reason of the halt,
    else None. `judge` is the operator's judge, beside the second reward model. Candidates are also
    written to `store`. `quarantined` returns the accounts whose feedback trains nothing.
    """

    state: Path
    feedback: Feedback
    objects: Objects
    rollout: RolloutControl | None
    clock: Clock
    display: Display
    code_commit: str = ""
    halt_reason: Callable[[], str | None] = lambda: None
    judge: Judge | None = None
    store: ModelBucket | None = None
    quarantined: Callable[[], Collection[str]] = frozenset
    tracking: Tracking = field(default_factory=Tracking)

    @property
    def loop_directory(self) -> Path:
        return self.state / "loop"

    @property
    def runs(self) -> Runs:
        return Runs(self.loop_directory)

    @property
    def registry(self) -> Registry:
        return Registry(self.state / "models")

    def ancestries(self) -> list[Ancestry]:
        """Return the ancestry of all known versions."""
        return trace(self.runs, self.registry)


@dataclass(frozen=True)
class LoopRun:
    """State of a run that has begun."""

    record: RunRecord
    config: LoopConfig
    snapshot: Snapshot
    sets: TrainingSets
    reporter: ProgressReporter
    env: LoopEnvironment

    @property
    def directory(self) -> Path:
        return self.config.plan.run_directory


def begin(
    version: str, name: str, recipe: Recipe, env: LoopEnvironment, reporter: ProgressReporter
) -> LoopRun:
    """Take a snapshot, check its size, and create the run."""
    runs = env.runs
    # The run starts from the stable version of the rollout. Without a rollout, it starts from the
    # version that was promoted last, or else from the recipe's base model.
    if env.rollout is None:
        incumbent = env.registry.promoted() or base_version(env.registry, name)
    elif not (incumbent := env.rollout.view().stable):
        raise RegistryError(
            "version: the generator has no stable version to improve",
            field="version",
            reason="MISSING",
        )
    plan = Plan(version, runs.directory(version), env.registry.directory(incumbent))
    config = recipe(plan)
    check_requirements(config)
    last = runs.last(name)
    reporter.note_thumbs(config.sets.min_thumbs, last.started if last else "")
    with reporter.step("snapshot") as step:
        held = env.quarantined()
        snapshot = take_snapshot(
            env.feedback, env.objects, config.snapshot, runs.snapshots, env.code_commit, held
        )
        sets = _make_sets(snapshot, config)
        rankings = f"{snapshot.rankings} votes and rankings, " if snapshot.rankings else ""
        step.detail = f"{snapshot.thumbs} thumbs, {rankings}{sets.user_pairs} pairs for training"
        step.detail += f" ({snapshot.id})"
    # Outside the step: the snapshot has not failed if its feedback is too little.
    _check_enough(runs, name, snapshot, sets, config)
    config = with_data(config, recipe, sets, reporter.say)
    record = RunRecord(
        version, name, incumbent, snapshot.id, datetime.now(UTC).isoformat(timespec="seconds")
    )
    runs.begin(record)
    return _open(record, config, snapshot, sets, reporter, env)


def resume(
    record: RunRecord, recipe: Recipe, env: LoopEnvironment, reporter: ProgressReporter
) -> LoopRun:
    """Reopen a run with the snapshot and the incumbent that it started with."""
    config = _config_of(record, recipe, env)
    with reporter.step("snapshot") as step:
        snapshot = open_snapshot(env.runs.snapshots / record.snapshot)
        sets = _make_sets(snapshot, config)
        step.detail = f"resumed with {snapshot.thumbs} thumbs ({snapshot.id})"
    config = with_data(config, recipe, sets, reporter.say)
    return _open(record, config, snapshot, sets, reporter, env)


def unusable_reason(record: RunRecord, recipe: Recipe, env: LoopEnvironment) -> str | None:
    """Return why an unfinished run must not continue, None if it may.

    A snapshot whose texts were erased cannot be used. Users who withdrew their consent after the
    snapshot must not be learned from, unless training has already ended.
    """
    directory = env.runs.snapshots / record.snapshot
    if reason := read_manifest(directory).erasure:
        return reason
    config = _config_of(record, recipe, env)
    if finished_manifest(config.ppo.output_directory):
        return None
    given = read_feedback(open_snapshot(directory))
    principals = sorted({name for one in given for name in people_of(one)})
    keys = env.feedback.data_keys(principals)
    gone = sum(name not in keys or not keys[name].consent for name in principals)
    if not gone:
        return None
    return f"{gone} of {len(principals)} users of {record.snapshot} withdrew their consent"


def _config_of(record: RunRecord, recipe: Recipe, env: LoopEnvironment) -> LoopConfig:
    """Return the configuration of a run that has begun, with the hardware that it recorded."""
    plan = Plan(
        record.version,
        env.runs.directory(record.version),
        env.registry.directory(record.incumbent),
    )
    return recipe(recorded_plan(plan, plan.run_directory / CONFIG))


def _make_sets(snapshot: Snapshot, config: LoopConfig) -> TrainingSets:
    """Divide a snapshot into sets, without personal data unless the recipe keeps it."""
    given = read_feedback(snapshot)
    if not config.sets.redact_personal_data:
        return make_sets(given, config.sets)
    given, counts = redact_feedback(given, config.sets.language)
    redacted = {kind.value: count for kind, count in sorted(counts.items())}
    return replace(make_sets(given, config.sets), redacted=redacted)


def _open(
    record: RunRecord,
    config: LoopConfig,
    snapshot: Snapshot,
    sets: TrainingSets,
    reporter: ProgressReporter,
    env: LoopEnvironment,
) -> LoopRun:
    config = config.pinned(snapshot.id, snapshot.sha256, env.code_commit)
    directory = config.plan.directory("sets")
    reporter.note_thumbs(config.sets.min_thumbs, record.started)
    if not (directory / MANIFEST).exists():
        write_sets(sets, directory)
        write_manifest(
            directory,
            kind="sets",
            version=directory.name,
            parents=(snapshot.id,),
            config=config.sets,
            report=sets.counts(),
        )
        write_json(config.plan.run_directory / CONFIG, plain(config))
    origin = f"from {record.incumbent} and {snapshot.id}"
    env.registry.note(record.version, VersionStage.CANDIDATE, origin, record.version)
    return LoopRun(record, config, snapshot, sets, reporter, env)


def _check_enough(
    runs: Runs, name: str, snapshot: Snapshot, sets: TrainingSets, config: LoopConfig
) -> None:
    if missing := sets.missing(config.sets, snapshot.thumbs, snapshot.rankings):
        raise NotEnoughFeedbackError(
            f"not enough feedback: {'; '.join(missing)}. {PAIR_ADVICE}", field="feedback"
        )
    last = runs.last(name)
    if last is None or not (runs.snapshots / last.snapshot / MANIFEST).exists():
        return
    # Compare the hash of the judgements, not the id: compaction changes rows that do not count.
    pinned = runs.snapshots / last.snapshot
    if Snapshot(pinned, read_manifest(pinned)).sha256 == snapshot.sha256:
        raise NotEnoughFeedbackError(
            f"no new feedback: {last.version} has learned from {last.snapshot} already",
            field="snapshot",
            reason="DUPLICATE",
        )


def note_undone(registry: Registry, undone: Mapping[str, str]) -> None:
    """Record promotions that the generator's watch has rolled back while no run was in progress.

    Args:
        undone: reason by version; versions of another registry are left out.
    """
    promoted = {e.version for e in registry.history() if e.stage is VersionStage.PROMOTED}
    for version in promoted & undone.keys():
        registry.note(version, VersionStage.ROLLED_BACK, undone[version], version)


def give_up(record: RunRecord, reason: str, env: LoopEnvironment) -> None:
    """End a run whose snapshot must not be used, and withdraw its version from the canary.

    If the version is already stable, the registry records a promotion, even if the run could not
    write its result.
    """
    rollout, version, stage = env.rollout, record.version, VersionStage.ERASED
    state = rollout.view().state_of(version) if rollout else CandidateState.ABSENT
    if state is CandidateState.STABLE:
        stage = VersionStage.PROMOTED
    elif rollout and state is not CandidateState.ABSENT:
        rollout.finish(version, Verdict.ROLL_BACK, reason)
    env.registry.note(version, stage, reason, version)
    conclude(record, stage.value, reason, env)


def conclude(record: RunRecord, result: str, reason: str, env: LoopEnvironment) -> RunResult:
    """Write the report, then the result, which ends the run."""
    finished = RunResult(result, reason, datetime.now(UTC).isoformat(timespec="seconds"))
    runs = env.runs
    ancestry = next(ancestry for ancestry in env.ancestries() if ancestry.version == record.version)
    write_report(
        runs.directory(record.version), runs.snapshots / record.snapshot, finished, ancestry
    )
    runs.end(record.version, finished)
    return finished
