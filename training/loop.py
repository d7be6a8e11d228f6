"""One run of the improvement loop, from erasures and snapshot to promotion or rollback.

The order is: apply erasures, snapshot, SFT, reward model and judge, health checks, PPO, evaluation,
gate, registry, canary.

Every step leaves a directory that is finished by its manifest. A step whose manifest exists is
skipped, so a killed run resumes when the same command is called again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from training.artifacts.lineage import Ancestry, erased_versions, trace
from training.artifacts.manifest import MANIFEST, Manifest, plain, read_manifest, write_manifest
from training.artifacts.registry import Registry, RegistryError, VersionStage
from training.cluster.runner import StageRun, run_stages
from training.data.feedback.catalogue import Objects
from training.data.feedback.sets import TrainingSets, make_sets, write_sets
from training.data.feedback.snapshot import (
    Log,
    Snapshot,
    open_snapshot,
    read_judgements,
    take_snapshot,
)
from training.erasure import apply_erasures
from training.errors import ConfigError, DetailedError
from training.evaluation import health
from training.evaluation.canary import Reading, Verdict
from training.evaluation.canary_run import (
    CanaryResult,
    CandidateState,
    Clock,
    RolloutControl,
    ThumbCounter,
    serve_canary,
)
from training.evaluation.comparison import compare
from training.evaluation.gate import Check, Decision, check_candidate, decide
from training.evaluation.health import HealthConfig, read_health
from training.progress_log import PROGRESS, read_progress
from training.recipes.recipe import LoopConfig, Plan, Recipe
from training.reporting.progress import FIGURE_GAP, Display, ProgressReporter, format_figures
from training.reporting.run import REPORT, STAGES, write_report
from training.runs import FAILED, STOPPED, RunRecord, RunResult, Runs, StepState, write_json
from training.runtime.context import Progress
from training.stages import ppo, reward_model, sft

STEPS = tuple("snapshot sft reward_model judge health ppo evaluation gate canary".split())
SHOWN = ("loss", "held_out_accuracy", "accuracy", "score", "kl", "response_tokens")
GATE, CANARY, CONFIG = "gate.json", "canary.json", "config.json"


class NotEnoughFeedbackError(DetailedError, RuntimeError):
    """Too little or no new feedback; the text gives the found and the needed amount."""

    reason = "TOO_SMALL"


class Feedback(Log, ThumbCounter, Protocol):
    """Calls of the feedback service that the loop uses."""


@dataclass(frozen=True)
class LoopEnvironment:
    """Services, folders and display of a run.

    Without a rollout, the run ends after the gate.
    """

    state: Path
    feedback: Feedback
    objects: Objects
    rollout: RolloutControl | None
    clock: Clock
    display: Display
    code_commit: str = ""

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


def run_steps(run: LoopRun) -> RunResult:
    """Run all steps after the snapshot; finished steps are skipped on a second call."""
    decision = learn(run)
    if not decision.passed:
        return refuse(run, decision)

    admit(run, decision)
    if run.env.rollout is None:
        return conclude(run, "passed", "the gate passed; no rollout was requested")
    end = run_canary(run, run.env.rollout)
    promoted, version = end.verdict is Verdict.PROMOTE, run.record.version
    stage = VersionStage.PROMOTED if promoted else VersionStage.ROLLED_BACK
    run.env.registry.note(version, stage, end.reason, version)
    return conclude(run, "promoted" if promoted else "rolled back", end.reason)


def learn(run: LoopRun) -> Decision:
    """Train all models and return the decision of the gate.

    PPO and evaluation are skipped if the reward models are not healthy. All stages share a group of
    workers, because the start of a group takes longest.
    """
    config, sets = run.config, run.sets
    check = HealthConfig(config.evaluation, config.gate, sets.noise.flipped, sets.held_out_ceiling)
    outputs = train(
        run,
        StageRun("sft", sft.run, config.sft),
        StageRun("reward_model", reward_model.run, config.reward_model),
        StageRun("judge", reward_model.run, config.judge),
        StageRun("health", health.run, check, continue_if=check.passed),
        StageRun("ppo", ppo.run, config.ppo),
    )
    if not check.passed():
        return decide(check.checks())
    return decide([*check.checks(), *evaluate(run, outputs[-1])])


def run_loop(recipe_name: str, recipe: Recipe, env: LoopEnvironment) -> RunResult:
    """Resume the unfinished run of a recipe, or begin a new run.

    Raises:
        NotEnoughFeedbackError: too little feedback, or no feedback since the last run.
        ConfigError, RegistryError, CatalogueError: the run cannot begin. No files were created.
    """
    record = env.runs.unfinished(recipe_name)
    reporter = _reporter(record, recipe_name, env)
    try:
        if (erased := apply_erasures(env.feedback, env.loop_directory, env.registry)).erasures:
            reporter.say(erased.text())
        if record and (reason := read_manifest(env.runs.snapshots / record.snapshot).erasure):
            give_up(record, reason, env)
            reporter.say(f"a new run replaces {record.version}: {reason}")
            record, reporter = None, _reporter(None, recipe_name, env)
        reporter.note_erased(erased_versions(env.ancestries()))
        run = (
            resume(record, recipe, env, reporter)
            if record
            else begin(reporter.status.run, recipe_name, recipe, env, reporter)
        )
        result = run_steps(run)
        reporter.note_erased(erased_versions(env.ancestries()))
    except NotEnoughFeedbackError as error:
        reporter.finish("not_enough_feedback", str(error), None)
        raise
    except KeyboardInterrupt:
        reporter.finish(STOPPED, "stopped; the same command resumes the run", None)
        raise
    except BaseException as error:
        reporter.finish(FAILED, f"{type(error).__name__}: {error}", None)
        raise
    reporter.finish(result.result, result.reason, f"runs/{run.record.version}/{REPORT}")
    return result


def give_up(record: RunRecord, reason: str, env: LoopEnvironment) -> None:
    """End a run whose snapshot was erased, and withdraw its version from the canary.

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
    _end(record, stage.value, reason, env)


def begin(
    version: str, name: str, recipe: Recipe, env: LoopEnvironment, reporter: ProgressReporter
) -> LoopRun:
    """Take a snapshot, check its size, and create the run."""
    runs = env.runs
    incumbent = _incumbent(name, env)
    plan = Plan(version, runs.directory(version), env.registry.directory(incumbent))
    config = recipe(plan)
    _check_size(config)
    last = runs.last(name)
    reporter.note_thumbs(config.sets.min_thumbs, last.started if last else "")
    with reporter.step("snapshot") as step:
        snapshot = take_snapshot(
            env.feedback, env.objects, config.snapshot, runs.snapshots, env.code_commit
        )
        sets = make_sets(read_judgements(snapshot), config.sets)
        step.detail = f"{snapshot.thumbs} thumbs, {len(sets.pairs)} pairs ({snapshot.id})"
        _check_enough(runs, name, snapshot, sets, config)
    record = RunRecord(
        version, name, incumbent, snapshot.id, datetime.now(UTC).isoformat(timespec="seconds")
    )
    runs.begin(record)
    return _open(record, config, snapshot, sets, reporter, env)


def resume(
    record: RunRecord, recipe: Recipe, env: LoopEnvironment, reporter: ProgressReporter
) -> LoopRun:
    """Reopen a run with the snapshot and the incumbent that it started with."""
    plan = Plan(
        record.version,
        env.runs.directory(record.version),
        env.registry.directory(record.incumbent),
    )
    config = recipe(plan)
    with reporter.step("snapshot") as step:
        snapshot = open_snapshot(env.runs.snapshots / record.snapshot)
        sets = make_sets(read_judgements(snapshot), config.sets)
        step.detail = f"resumed with {snapshot.thumbs} thumbs ({snapshot.id})"
    return _open(record, config, snapshot, sets, reporter, env)


def train(run: LoopRun, *stages: StageRun[Any]) -> list[Manifest]:
    """Run stages as steps of the run.

    A stage with the same name resumes from its checkpoint.
    """
    storage, config = run.directory / STAGES, run.config
    prefix = f"checkpoints/{run.record.version}" if config.checkpoints_in_bucket else None
    return run_stages(stages, storage, config.group, _StageProgress(run), prefix)


@dataclass(frozen=True)
class _StageProgress:
    """Forwards the progress of stages to the reporter.

    The health stage has no steps, so its findings are shown at its end.
    """

    run: LoopRun

    def begin(self, name: str) -> None:
        self.run.reporter.begin(name)

    def move(self, name: str, progress: Progress) -> None:
        where = f"{progress.step}/{progress.total_steps}"
        detail = FIGURE_GAP.join((where, *format_figures(progress.metrics, SHOWN)))
        self.run.reporter.move(name, progress.step / max(progress.total_steps, 1), detail)

    def end(self, name: str) -> None:
        found = (
            read_health(self.run.config.evaluation.health_directory).text()
            if name == "health"
            else ""
        )
        self.run.reporter.end(name, found)


def evaluate(run: LoopRun, candidate: Manifest) -> list[Check]:
    """Compare the candidate with the incumbent; return the rows of the gate's table."""
    with run.reporter.step("evaluation") as step:
        compared = compare(run.config.evaluation)
        step.detail = f"win rate {compared.win_rate.text()}"
    # After an alarm the exported update is not the last measured update.
    exported = int(candidate.report["exported_update"])
    updates = read_progress(run.directory / STAGES / "ppo" / PROGRESS)
    kls = [update.metrics["kl"] for update in updates if update.step <= exported]
    return check_candidate(compared, kls[-1] if kls else 0.0, run.config.gate)


def admit(run: LoopRun, decision: Decision) -> None:
    """Record that the gate passed, and copy the candidate into the registry."""
    with run.reporter.step("gate") as step:
        step.detail = decision.reason
        _write_gate(run, decision)
        registry, version = run.env.registry, run.record.version
        registry.admit(run.config.ppo.output_directory, version)
        registry.note(version, VersionStage.GATED, decision.reason, version)


def refuse(run: LoopRun, decision: Decision) -> RunResult:
    """Record that the gate failed, and end the run."""
    with run.reporter.step("gate") as step:
        step.state, step.detail = StepState.REFUSED, decision.reason
        _write_gate(run, decision)
        run.env.registry.note(
            run.record.version, VersionStage.REFUSED, decision.reason, run.record.version
        )
    return conclude(run, "refused", decision.reason)


def run_canary(run: LoopRun, rollout: RolloutControl) -> CanaryResult:
    """Try the candidate on a share of the users until their thumbs decide."""
    version, env = run.record.version, run.env
    with run.reporter.step("canary") as step:
        env.registry.note(
            version, VersionStage.CANARY, f"share {run.config.canary.share:g}", version
        )
        model = env.registry.directory(version)
        record = run.directory / "canary"
        end = serve_canary(
            version,
            model,
            run.config.canary,
            rollout,
            env.feedback,
            env.clock,
            record,
            lambda reading, passed: run.reporter.move("canary", passed, reading_text(reading)),
        )
        write_json(run.directory / CANARY, plain(asdict(end)))
        step.detail = end.reason
        if end.verdict is not Verdict.PROMOTE:
            step.state = StepState.REFUSED
    return end


def conclude(run: LoopRun, result: str, reason: str) -> RunResult:
    """Write the report, then the result, which ends the run."""
    return _end(run.record, result, reason, run.env)


def _end(record: RunRecord, result: str, reason: str, env: LoopEnvironment) -> RunResult:
    finished = RunResult(result, reason, datetime.now(UTC).isoformat(timespec="seconds"))
    runs = env.runs
    ancestry = next(ancestry for ancestry in env.ancestries() if ancestry.version == record.version)
    write_report(
        runs.directory(record.version), runs.snapshots / record.snapshot, finished, ancestry
    )
    runs.end(record.version, finished)
    return finished


def _reporter(record: RunRecord | None, recipe_name: str, env: LoopEnvironment) -> ProgressReporter:
    """Return the reporter of an unfinished run, or of a new run under the next version name."""
    version = record.version if record else env.registry.next_version(recipe_name, env.runs.names())
    return ProgressReporter(env.loop_directory, env.display, version, recipe_name, STEPS)


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


def _incumbent(name: str, env: LoopEnvironment) -> str:
    """Return the version that the run starts from.

    This is the stable version of the rollout. Without a rollout, it is the version that was
    promoted last, or else the recipe's base model.
    """
    if env.rollout is None:
        return env.registry.promoted() or f"{name}-0"
    stable = env.rollout.view().stable
    if not stable:
        raise RegistryError(
            "version: the generator has no stable version to improve",
            field="version",
            reason="MISSING",
        )
    return stable


def _check_size(config: LoopConfig) -> None:
    incumbent = config.plan.incumbent_directory
    size = sum(path.stat().st_size for path in incumbent.glob("*.safetensors"))
    if size > config.max_model_bytes:
        raise ConfigError(
            f"recipe {config.name}: {incumbent.name} has {size >> 20} MiB of weights, "
            f"this recipe takes at most {config.max_model_bytes >> 20} MiB: "
            "use RECIPE=small, or make up MODEL=nano",
            field="recipe",
            reason="TOO_LARGE",
            limit=f"{config.max_model_bytes >> 20} MiB",
        )


def _check_enough(
    runs: Runs, name: str, snapshot: Snapshot, sets: TrainingSets, config: LoopConfig
) -> None:
    if missing := sets.missing(config.sets, snapshot.thumbs):
        raise NotEnoughFeedbackError("not enough feedback: " + "; ".join(missing), field="feedback")
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


def _write_gate(run: LoopRun, decision: Decision) -> None:
    fields = {
        "passed": decision.passed,
        "reason": decision.reason,
        "checks": [asdict(c) for c in decision.checks],
    }
    write_json(run.directory / GATE, fields)


def reading_text(reading: Reading) -> str:
    """Describe a reading of the canary in a single line."""
    new, old = reading.candidate, reading.incumbent
    return f"candidate {new.up}/{new.total} up, incumbent {old.up}/{old.total} up: {reading.reason}"
