"""The whole turn, as one story: forget who was erased, snapshot, SFT, reward model and judge, their
health, PPO, evaluation, gate, registry, canary, promoted or rolled back.

Every step leaves a directory that its manifest finishes, and is skipped when that is there: a
killed turn is called again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from training.cluster.progress_log import PROGRESS, read_progress
from training.cluster.runner import StageRun, run_stages
from training.data.catalogue import Objects
from training.data.sets import Sets, cut, write_sets
from training.data.snapshot import Log, Snapshot, open_snapshot, read_judgements, take_snapshot
from training.evaluation import health
from training.evaluation.canary import Reading, Verdict
from training.evaluation.comparison import compare
from training.evaluation.gate import Check, Decision, check_candidate, decide
from training.evaluation.health import HealthConfig, read_health
from training.evaluation.trial import (
    CandidateState,
    Clock,
    Rollout,
    ThumbCounter,
    TrialEnd,
    run_trial,
)
from training.forgetting import forget
from training.lineage import Descent, erased_versions, trace
from training.manifest import MANIFEST, Manifest, plain, read_manifest, write_manifest
from training.progress import FIGURE_GAP, Board, Display, figures_of
from training.recipes.recipe import LoopConfig, Plan, Recipe
from training.refusals import DetailedError
from training.registry import Registry, RegistryError, Stage
from training.reporting.turn import REPORT, STAGES, write_report
from training.runs import RunRecord, RunResult, Runs, write_json
from training.stages import ppo, reward_model, sft
from training.stages.context import ConfigError, Progress
from training.status import FAILED, STOPPED, StepState

STEPS = (
    "snapshot",
    "sft",
    "reward_model",
    "judge",
    "health",
    "ppo",
    "evaluation",
    "gate",
    "canary",
)
SHOWN = ("loss", "held_out_accuracy", "accuracy", "score", "kl", "response_tokens")
GATE, CANARY, CONFIG = "gate.json", "canary.json", "config.json"


class NotEnoughFeedbackError(DetailedError, RuntimeError):
    """There is not enough to learn from, or nothing new; the text says how much there is and how
    much is needed.
    """

    reason = "TOO_SMALL"


class Feedback(Log, ThumbCounter, Protocol):
    """The feedback service, as the loop needs it."""


@dataclass(frozen=True)
class Surroundings:
    """What a turn works on. Without a rollout it ends after the gate."""

    state: Path
    feedback: Feedback
    objects: Objects
    rollout: Rollout | None
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

    def descents(self) -> list[Descent]:
        """Which versions learned from what."""
        return trace(self.runs, self.registry)


@dataclass(frozen=True)
class Turn:
    """One turn under way."""

    record: RunRecord
    config: LoopConfig
    snapshot: Snapshot
    sets: Sets
    board: Board
    around: Surroundings

    @property
    def directory(self) -> Path:
        return self.config.plan.run_directory


def run_turn(turn: Turn) -> RunResult:
    """From the snapshot to the verdict of the users. Each line is a step that a second call skips."""
    decision = learn(turn)
    if not decision.passed:
        return refuse(turn, decision)

    admit(turn, decision)
    if turn.around.rollout is None:
        return conclude(turn, "passed", "the gate passed; no rollout was asked for")
    end = try_on_users(turn, turn.around.rollout)
    promoted, version = end.verdict is Verdict.PROMOTE, turn.record.version
    turn.around.registry.note(
        version, Stage.PROMOTED if promoted else Stage.ROLLED_BACK, end.reason, version
    )
    return conclude(turn, "promoted" if promoted else "rolled back", end.reason)


def learn(turn: Turn) -> Decision:
    """Train, as far as the reward models' health allows, and decide. One group of workers for all
    of it: to start it takes longest.
    """
    config, sets = turn.config, turn.sets
    check = HealthConfig(config.evaluation, config.gate, sets.noise.flipped, sets.held_out_ceiling)
    outputs = train(
        turn,
        StageRun("sft", sft.run, config.sft),
        StageRun("reward_model", reward_model.run, config.reward_model),
        StageRun("judge", reward_model.run, config.judge),
        StageRun("health", health.run, check, lets_go_on=check.passed),
        StageRun("ppo", ppo.run, config.ppo),
    )
    if not check.passed():
        return decide(check.checks())
    return decide([*check.checks(), *evaluate(turn, outputs[-1])])


def run_loop(recipe_name: str, recipe: Recipe, around: Surroundings) -> RunResult:
    """One turn: the unfinished one of this recipe, or a new one.

    Raises:
        NotEnoughFeedbackError: too little was said since, or in all.
        ConfigError, RegistryError, CatalogueError: it cannot begin; nothing was begun.
    """
    record = around.runs.unfinished(recipe_name)
    board = _board(record, recipe_name, around)
    try:
        if (forgotten := forget(around.feedback, around.loop_directory, around.registry)).erasures:
            board.say(forgotten.text())
        if record and (reason := read_manifest(around.runs.snapshots / record.snapshot).erasure):
            give_up(record, reason, around)
            board.say(f"a new turn begins instead of {record.version}: {reason}")
            record, board = None, _board(None, recipe_name, around)
        board.note_erased(erased_versions(around.descents()))
        turn = (
            resume(record, recipe, around, board)
            if record
            else begin(board.status.run, recipe_name, recipe, around, board)
        )
        result = run_turn(turn)
        board.note_erased(erased_versions(around.descents()))
    except NotEnoughFeedbackError as error:
        board.finish("not_enough_feedback", str(error), None)
        raise
    except KeyboardInterrupt:
        board.finish(STOPPED, "told to stop; the same command goes on where it was", None)
        raise
    except BaseException as error:
        board.finish(FAILED, f"{type(error).__name__}: {error}", None)
        raise
    board.finish(result.result, result.reason, f"runs/{turn.record.version}/{REPORT}")
    return result


def give_up(record: RunRecord, reason: str, around: Surroundings) -> None:
    """End a run whose snapshot is gone, and take its version off the users it was tried on. One
    that answers everybody already was promoted, whatever the run had not yet written.
    """
    rollout, version, stage = around.rollout, record.version, Stage.ERASED
    state = rollout.view().state_of(version) if rollout else CandidateState.ABSENT
    if state is CandidateState.STABLE:
        stage = Stage.PROMOTED
    elif rollout and state is not CandidateState.ABSENT:
        rollout.finish(version, Verdict.ROLL_BACK, reason)
    around.registry.note(version, stage, reason, version)
    _end(record, stage.value, reason, around)


def begin(version: str, name: str, recipe: Recipe, around: Surroundings, board: Board) -> Turn:
    """Pin a snapshot, see that it is enough, and open the run."""
    runs = around.runs
    incumbent = _incumbent(name, around)
    plan = Plan(version, runs.directory(version), around.registry.directory(incumbent))
    config = recipe(plan)
    _check_size(config)
    last = runs.last(name)
    board.note_thumbs(config.sets.min_thumbs, last.started if last else "")
    with board.step("snapshot") as step:
        snapshot = take_snapshot(
            around.feedback, around.objects, config.snapshot, runs.snapshots, around.code_commit
        )
        sets = cut(read_judgements(snapshot), config.sets)
        step.detail = f"{snapshot.thumbs} thumbs, {len(sets.pairs)} pairs ({snapshot.id})"
        _check_enough(runs, name, snapshot, sets, config)
    record = RunRecord(
        version, name, incumbent, snapshot.id, datetime.now(UTC).isoformat(timespec="seconds")
    )
    runs.begin(record)
    return _open(record, config, snapshot, sets, board, around)


def resume(record: RunRecord, recipe: Recipe, around: Surroundings, board: Board) -> Turn:
    """The turn as it was begun: same snapshot, same incumbent, whatever came in since."""
    plan = Plan(
        record.version,
        around.runs.directory(record.version),
        around.registry.directory(record.incumbent),
    )
    config = recipe(plan)
    with board.step("snapshot") as step:
        snapshot = open_snapshot(around.runs.snapshots / record.snapshot)
        sets = cut(read_judgements(snapshot), config.sets)
        step.detail = f"resumed with {snapshot.thumbs} thumbs ({snapshot.id})"
    return _open(record, config, snapshot, sets, board, around)


def train(turn: Turn, *stages: StageRun[Any]) -> list[Manifest]:
    """Stages as steps of the board. Under the same names they go on from their checkpoints."""
    storage, config = turn.directory / STAGES, turn.config
    prefix = f"checkpoints/{turn.record.version}" if config.checkpoints_in_bucket else None
    return run_stages(stages, storage, config.group, _StagesOnBoard(turn), prefix)


@dataclass(frozen=True)
class _StagesOnBoard:
    """Shows what the stages report, and of the health, which has no steps, what it found."""

    turn: Turn

    def begin(self, name: str) -> None:
        self.turn.board.begin(name)

    def move(self, name: str, progress: Progress) -> None:
        where = f"{progress.step}/{progress.total_steps}"
        detail = FIGURE_GAP.join((where, *figures_of(progress.metrics, SHOWN)))
        self.turn.board.move(name, progress.step / max(progress.total_steps, 1), detail)

    def end(self, name: str) -> None:
        found = (
            read_health(self.turn.config.evaluation.health_directory).text()
            if name == "health"
            else ""
        )
        self.turn.board.end(name, found)


def evaluate(turn: Turn, candidate: Manifest) -> list[Check]:
    """Candidate against incumbent, as rows of the gate's table."""
    with turn.board.step("evaluation") as step:
        compared = compare(turn.config.evaluation)
        step.detail = f"win rate {compared.win_rate.text()}"
    return check_candidate(compared, _kl_of(turn, candidate), turn.config.gate)


def admit(turn: Turn, decision: Decision) -> None:
    """The gate passed: the candidate becomes a version."""
    with turn.board.step("gate") as step:
        step.detail = decision.reason
        _write_gate(turn, decision)
        registry, version = turn.around.registry, turn.record.version
        registry.admit(turn.config.ppo.output_directory, version)
        registry.note(version, Stage.GATED, decision.reason, version)


def refuse(turn: Turn, decision: Decision) -> RunResult:
    """The gate closed: the reason is data, in the registry too."""
    with turn.board.step("gate") as step:
        step.state, step.detail = StepState.REFUSED, decision.reason
        _write_gate(turn, decision)
        turn.around.registry.note(
            turn.record.version, Stage.REFUSED, decision.reason, turn.record.version
        )
    return conclude(turn, "refused", decision.reason)


def try_on_users(turn: Turn, rollout: Rollout) -> TrialEnd:
    """A share of the users decides, with their thumbs."""
    version, around = turn.record.version, turn.around
    with turn.board.step("canary") as step:
        around.registry.note(version, Stage.CANARY, f"share {turn.config.canary.share:g}", version)
        model = around.registry.directory(version)
        record = turn.directory / "canary"
        end = run_trial(
            version,
            model,
            turn.config.canary,
            rollout,
            around.feedback,
            around.clock,
            record,
            lambda reading, passed: turn.board.move("canary", passed, reading_text(reading)),
        )
        write_json(turn.directory / CANARY, plain(asdict(end)))
        step.detail = end.reason
        if end.verdict is not Verdict.PROMOTE:
            step.state = StepState.REFUSED
    return end


def conclude(turn: Turn, result: str, reason: str) -> RunResult:
    """Write the report, then the result that ends the run."""
    return _end(turn.record, result, reason, turn.around)


def _end(record: RunRecord, result: str, reason: str, around: Surroundings) -> RunResult:
    finished = RunResult(result, reason, datetime.now(UTC).isoformat(timespec="seconds"))
    runs = around.runs
    descent = next(descent for descent in around.descents() if descent.version == record.version)
    write_report(
        runs.directory(record.version), runs.snapshots / record.snapshot, finished, descent
    )
    runs.end(record.version, finished)
    return finished


def _board(record: RunRecord | None, recipe_name: str, around: Surroundings) -> Board:
    """Of the run that is taken up, or of the next one."""
    version = (
        record.version if record else around.registry.next_version(recipe_name, around.runs.names())
    )
    return Board(around.loop_directory, around.display, version, recipe_name, STEPS)


def _open(
    record: RunRecord,
    config: LoopConfig,
    snapshot: Snapshot,
    sets: Sets,
    board: Board,
    around: Surroundings,
) -> Turn:
    config = config.pinned(snapshot.id, snapshot.sha256, around.code_commit)
    directory = config.plan.directory("sets")
    board.note_thumbs(config.sets.min_thumbs, record.started)
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
    around.registry.note(
        record.version,
        Stage.CANDIDATE,
        f"from {record.incumbent} and {snapshot.id}",
        record.version,
    )
    return Turn(record, config, snapshot, sets, board, around)


def _incumbent(name: str, around: Surroundings) -> str:
    """The version that answers; without a rollout the one promoted last, or the one that the recipe
    starts from.
    """
    if around.rollout is None:
        return around.registry.promoted() or f"{name}-0"
    stable = around.rollout.view().stable
    if not stable:
        raise RegistryError(
            "version: no version answers now, so there is nothing to improve",
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
            f"this recipe takes at most {config.max_model_bytes >> 20} MiB: use RECIPE=small, or make up MODEL=nano",
            field="recipe",
            reason="TOO_LARGE",
            limit=f"{config.max_model_bytes >> 20} MiB",
        )


def _check_enough(
    runs: Runs, name: str, snapshot: Snapshot, sets: Sets, config: LoopConfig
) -> None:
    if missing := sets.missing(config.sets, snapshot.thumbs):
        raise NotEnoughFeedbackError("not enough feedback: " + "; ".join(missing), field="feedback")
    last = runs.last(name)
    # By what was judged, not by the id: rows that do not count come and go with every compaction.
    if last is not None and _judged(runs.snapshots / last.snapshot) == snapshot.sha256:
        raise NotEnoughFeedbackError(
            f"nothing new: {last.version} has learned from {last.snapshot} already",
            field="snapshot",
            reason="DUPLICATE",
        )


def _judged(directory: Path) -> str:
    """Hash of a snapshot's judgements; empty: it is not kept."""
    return (
        Snapshot(directory, read_manifest(directory)).sha256
        if (directory / MANIFEST).exists()
        else ""
    )


def _kl_of(turn: Turn, candidate: Manifest) -> float:
    """KL of the update that was exported: after an alarm the last one measured is not the one kept."""
    exported = int(candidate.report["exported_update"])
    steps = [
        s for s in read_progress(turn.directory / STAGES / "ppo" / PROGRESS) if s.step <= exported
    ]
    return steps[-1].metrics["kl"] if steps else 0.0


def _write_gate(turn: Turn, decision: Decision) -> None:
    fields = {
        "passed": decision.passed,
        "reason": decision.reason,
        "checks": [asdict(c) for c in decision.checks],
    }
    write_json(turn.directory / GATE, fields)


def reading_text(reading: Reading) -> str:
    """One look of a canary, in one line."""
    new, old = reading.candidate, reading.incumbent
    return f"candidate {new.up}/{new.total} up, incumbent {old.up}/{old.total} up: {reading.reason}"
