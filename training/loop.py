"""The whole turn, as one story: snapshot, SFT, reward model and judge, their health, PPO, evaluation, gate, registry, canary,
promoted or rolled back.

Every step leaves a directory that its manifest finishes, and is skipped when that is there: a killed turn is called again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from training.cluster.progress_log import PROGRESS, read_progress
from training.cluster.runner import StageRun, local_cluster, run_stages
from training.data.catalogue import Catalogue, Objects
from training.data.sets import Sets, cut, write_sets
from training.data.snapshot import Snapshot, open_snapshot, read_judgements, take_snapshot
from training.evaluation.canary import Reading, Verdict
from training.evaluation.comparison import compare, measure_health
from training.evaluation.gate import Check, Decision, check_candidate, check_labels, check_reward_model, decide
from training.evaluation.trial import Clock, Rollout, ThumbCounter, TrialEnd, run_trial
from training.manifest import MANIFEST, Manifest, plain, write_manifest
from training.progress import FAILED, FIGURE_GAP, Board, Display, StepState
from training.recipes.recipe import LoopConfig, Plan, Recipe
from training.registry import Registry, RegistryError, Stage
from training.report import REPORT, write_report
from training.runs import RunRecord, RunResult, Runs, write_json
from training.stages import ppo, reward_model, sft
from training.stages.artifact import finished
from training.stages.context import ConfigError, Progress

STEPS = ("snapshot", "sft", "reward_model", "judge", "health", "ppo", "evaluation", "gate", "canary")
SHOWN = ("loss", "held_out_accuracy", "accuracy", "score", "kl", "response_tokens")
GATE, CANARY, CONFIG = "gate.json", "canary.json", "config.json"


class NotEnoughFeedbackError(RuntimeError):
    """There is not enough to learn from, or nothing new; the text says how much there is and how much is needed."""


class Feedback(Catalogue, ThumbCounter, Protocol):
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
    def registry(self) -> Registry:
        return Registry(self.state / "models")


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
    turn.around.registry.note(version, Stage.PROMOTED if promoted else Stage.ROLLED_BACK, end.reason, version)
    return conclude(turn, "promoted" if promoted else "rolled back", end.reason)


def learn(turn: Turn) -> Decision:
    """Train, as far as the reward models' health allows, and decide. One cluster for all stages: to start it takes longest."""
    config = turn.config
    with local_cluster(0 if finished(config.ppo.output_directory) else config.num_workers):
        train(
            turn,
            StageRun("sft", sft.run, config.sft),
            StageRun("reward_model", reward_model.run, config.reward_model),
            StageRun("judge", reward_model.run, config.judge),
        )

        health = check_health(turn)
        if not decide(health).passed:
            return decide(health)

        (candidate,) = train(turn, StageRun("ppo", ppo.run, config.ppo))
    return decide([*health, *evaluate(turn, candidate)])


def run_loop(recipe_name: str, recipe: Recipe, around: Surroundings) -> RunResult:
    """One turn: the unfinished one of this recipe, or a new one.

    Raises:
        NotEnoughFeedbackError: too little was said since, or in all.
        ConfigError, RegistryError, CatalogueError: it cannot begin; nothing was begun.
    """
    runs = Runs(around.loop_directory)
    record = runs.unfinished(recipe_name)
    version = record.version if record else around.registry.next_version(recipe_name, runs.names())
    board = Board(around.loop_directory, around.display, version, recipe_name, STEPS)
    try:
        turn = resume(record, recipe, around, board) if record else begin(version, recipe_name, recipe, around, board)
        result = run_turn(turn)
    except NotEnoughFeedbackError as error:
        board.finish("not_enough_feedback", str(error), None)
        raise
    except BaseException as error:
        board.finish(FAILED, f"{type(error).__name__}: {error}", None)
        raise
    board.finish(result.result, result.reason, f"runs/{version}/{REPORT}")
    return result


def begin(version: str, name: str, recipe: Recipe, around: Surroundings, board: Board) -> Turn:
    """Pin a snapshot, see that it is enough, and open the run."""
    runs = Runs(around.loop_directory)
    incumbent = _incumbent(name, around)
    plan = Plan(version, runs.directory(version), around.registry.directory(incumbent))
    config = recipe(plan)
    _check_size(config)
    with board.step("snapshot") as step:
        into = around.loop_directory / "snapshots"
        snapshot = take_snapshot(around.feedback, around.objects, config.snapshot, into, around.code_commit)
        sets = cut(read_judgements(snapshot), config.sets)
        step.detail = f"{snapshot.thumbs} thumbs, {len(sets.pairs)} pairs ({snapshot.id})"
        _check_enough(runs.last(name), snapshot, sets, config)
    record = RunRecord(version, name, incumbent, snapshot.id, datetime.now(UTC).isoformat(timespec="seconds"))
    runs.begin(record)
    return _open(record, config, snapshot, sets, board, around)


def resume(record: RunRecord, recipe: Recipe, around: Surroundings, board: Board) -> Turn:
    """The turn as it was begun: same snapshot, same incumbent, whatever came in since."""
    directory = Runs(around.loop_directory).directory(record.version)
    plan = Plan(record.version, directory, around.registry.directory(record.incumbent))
    config = recipe(plan)
    with board.step("snapshot") as step:
        snapshot = open_snapshot(around.loop_directory / "snapshots" / record.snapshot)
        sets = cut(read_judgements(snapshot), config.sets)
        step.detail = f"resumed with {snapshot.thumbs} thumbs ({snapshot.id})"
    return _open(record, config, snapshot, sets, board, around)


def train(turn: Turn, *stages: StageRun[Any]) -> list[Manifest]:
    """Stages as steps of the board. Under the same names they go on from their checkpoints."""
    storage, workers = turn.directory / "stages", turn.config.num_workers
    return run_stages(stages, storage, workers, _StagesOnBoard(turn.board))


@dataclass(frozen=True)
class _StagesOnBoard:
    """Shows what the stages report."""

    board: Board

    def begin(self, name: str) -> None:
        self.board.begin(name)

    def move(self, name: str, progress: Progress) -> None:
        figures = FIGURE_GAP.join(f"{key} {progress.metrics[key]:.3g}" for key in SHOWN if key in progress.metrics)
        where = f"{progress.step}/{progress.total_steps}"
        self.board.move(name, progress.step / max(progress.total_steps, 1), f"{where}{FIGURE_GAP}{figures}")

    def end(self, name: str) -> None:
        self.board.end(name)


def check_health(turn: Turn) -> list[Check]:
    """Do the thumbs say anything, and have both reward models learned it?"""
    with turn.board.step("health") as step:
        gate, sets = turn.config.gate, turn.sets
        health = measure_health(turn.config.evaluation)
        step.detail = f"reward model {health.reward_model.text()}, judge {health.judge.text()}"
        ceiling = sets.held_out_ceiling
        return [
            *check_labels(sets.noise.flipped, gate),
            *check_reward_model("reward model", health.reward_model, ceiling, gate),
            *check_reward_model("judge", health.judge, ceiling, gate),
        ]


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
        turn.around.registry.note(turn.record.version, Stage.REFUSED, decision.reason, turn.record.version)
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
    finished = RunResult(result, reason, datetime.now(UTC).isoformat(timespec="seconds"))
    write_report(turn.directory, turn.snapshot.directory, finished)
    Runs(turn.around.loop_directory).end(turn.record.version, finished)
    return finished


def _open(
    record: RunRecord, config: LoopConfig, snapshot: Snapshot, sets: Sets, board: Board, around: Surroundings
) -> Turn:
    config = config.pinned(snapshot.id, snapshot.sha256, around.code_commit)
    directory = config.plan.directory("sets")
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
    around.registry.note(record.version, Stage.CANDIDATE, f"from {record.incumbent} and {snapshot.id}", record.version)
    return Turn(record, config, snapshot, sets, board, around)


def _incumbent(name: str, around: Surroundings) -> str:
    """The version that answers; without a rollout the one promoted last, or the one that the recipe starts from."""
    if around.rollout is None:
        return around.registry.promoted() or f"{name}-0"
    stable = around.rollout.view().stable
    if not stable:
        raise RegistryError("version: no version answers now, so there is nothing to improve")
    return stable


def _check_size(config: LoopConfig) -> None:
    incumbent = config.plan.incumbent_directory
    size = sum(path.stat().st_size for path in incumbent.glob("*.safetensors"))
    if size > config.max_model_bytes:
        raise ConfigError(
            f"recipe {config.name}: {incumbent.name} has {size >> 20} MiB of weights, "
            f"this recipe takes at most {config.max_model_bytes >> 20} MiB: use RECIPE=small, or make up MODEL=nano"
        )


def _check_enough(last: RunRecord | None, snapshot: Snapshot, sets: Sets, config: LoopConfig) -> None:
    if missing := sets.missing(config.sets, snapshot.thumbs):
        raise NotEnoughFeedbackError("not enough feedback: " + "; ".join(missing))
    if last is not None and last.snapshot == snapshot.id:
        raise NotEnoughFeedbackError(f"nothing new: {last.version} has learned from {snapshot.id} already")


def _kl_of(turn: Turn, candidate: Manifest) -> float:
    """KL of the update that was exported: after an alarm the last one measured is not the one kept."""
    exported = int(candidate.report["exported_update"])
    steps = [s for s in read_progress(turn.directory / "stages" / "ppo" / PROGRESS) if s.step <= exported]
    return steps[-1].metrics["kl"] if steps else 0.0


def _write_gate(turn: Turn, decision: Decision) -> None:
    fields = {"passed": decision.passed, "reason": decision.reason, "checks": [asdict(c) for c in decision.checks]}
    write_json(turn.directory / GATE, fields)


def reading_text(reading: Reading) -> str:
    """One look of a canary, in one line."""
    new, old = reading.candidate, reading.incumbent
    return f"candidate {new.up}/{new.total} up, incumbent {old.up}/{old.total} up: {reading.reason}"
