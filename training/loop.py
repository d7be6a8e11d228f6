"""One run of the improvement loop, from erasures and snapshot to promotion or rollback.

The order is: apply erasures, snapshot, SFT, reward model and judge, health checks, PPO, evaluation,
gate, registry, canary.

Every step leaves a directory that is finished by its manifest. A step whose manifest exists is
skipped, so a killed run resumes when the same command is called again.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from durable_files.files import write_json
from training.artifacts.lineage import erased_versions
from training.artifacts.manifest import Manifest, hash_files, plain
from training.artifacts.registry import VersionStage
from training.artifacts.scores import (
    WEIGHTS,
    ScoredModel,
    ScoreError,
    ScoreStore,
    TaskScore,
    require_comparable,
)
from training.benchmarks.commands import run_benchmarks
from training.benchmarks.models import ModelChoice
from training.benchmarks.tasks import BENCHMARKS
from training.cluster.runner import StageRun, run_stages
from training.data.feedback.external import EXTERNAL_PREFIX
from training.erasure import apply_erasures
from training.errors import ConfigError
from training.evaluation import health
from training.evaluation.answers import ChatModel
from training.evaluation.canary import Verdict
from training.evaluation.canary_run import (
    CanaryResult,
    RolloutControl,
    serve_canary,
)
from training.evaluation.comparison import compare, place_of
from training.evaluation.gate import Check, Decision, check_candidate, decide
from training.evaluation.health import HealthConfig, read_health
from training.evaluation.task_rows import check_scores
from training.loop_run import (
    LoopEnvironment,
    LoopRun,
    NotEnoughFeedbackError,
    begin,
    conclude,
    give_up,
    note_undone,
    resume,
    unusable_reason,
)
from training.probes.items import Kind
from training.probes.measurement import measure, style_items_sha256, write_scores
from training.probes.measurement import tasks as probe_tasks
from training.progress_log import PROGRESS, read_progress
from training.recipes.recipe import Recipe
from training.recipes.rlvr.stage import run as run_policy
from training.reporting.progress import FIGURE_GAP, ProgressReporter, format_figures
from training.reporting.run import REPORT, STAGES
from training.runs import (
    FAILED,
    STOPPED,
    HaltedError,
    RunRecord,
    RunResult,
    StepState,
)
from training.runtime.context import Progress
from training.stages import reward_model, sft
from training.verification.sandbox.runs import open_sandbox

STEPS = tuple("snapshot sft reward_model judge health ppo evaluation gate canary".split())
SHOWN = (
    *("loss", "held_out_accuracy", "accuracy", "score", "preference_score", "verifiable_score"),
    *("kl", "response_tokens"),
)
GATE, CANARY = "gate.json", "canary.json"


def run_loop(recipe_name: str, recipe: Recipe, env: LoopEnvironment) -> RunResult:
    """Resume the unfinished run of a recipe, or begin a new run.

    Raises:
        NotEnoughFeedbackError: too little feedback, or no feedback since the last run.
        ConfigError, RegistryError, CatalogueError: the run cannot begin. No files were created.
        HaltedError: an operator has halted the rollout; a later call continues the run.
        ConfigError: an external model answers, which cannot be trained.
    """
    record = env.runs.unfinished(recipe_name)
    reporter = _reporter(record, recipe_name, env)
    try:
        if (erased := apply_erasures(env.feedback, env.loop_directory, env.registry)).erasures:
            reporter.say(erased.text())
        if record and (reason := unusable_reason(record, recipe, env)):
            give_up(record, reason, env)
            reporter.say(f"a new run replaces {record.version}: {reason}")
            record, reporter = None, _reporter(None, recipe_name, env)
        reporter.note_erased(erased_versions(env.ancestries()))
        # After the erasures, which a halt must not delay.
        if env.rollout is not None:
            view = env.rollout.view()
            if view.stable.startswith(EXTERNAL_PREFIX):
                raise ConfigError(
                    f"{view.stable} answers, an external model, which cannot be trained; training "
                    "needs a model of its own (TW_GENERATOR_SERVING predictor or kserve)",
                    field="TW_GENERATOR_SERVING",
                    reason="EXTERNAL_SERVING",
                    limit="predictor or kserve",
                )
            note_undone(env.registry, view.undone)
            if view.halt is not None:
                raise HaltedError(view.halt)
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
    except HaltedError as error:
        reporter.finish(STOPPED, str(error), None)
        raise
    except KeyboardInterrupt as error:
        if (halt := env.halt_reason()) is not None:
            halted = HaltedError(halt)
            reporter.finish(STOPPED, str(halted), None)
            raise halted from error
        reporter.finish(STOPPED, "stopped; the same command resumes the run", None)
        raise
    except BaseException as error:
        reporter.finish(FAILED, f"{type(error).__name__}: {error}", None)
        raise
    reporter.finish(result.result, result.reason, f"runs/{run.record.version}/{REPORT}")
    return result


def _reporter(record: RunRecord | None, recipe_name: str, env: LoopEnvironment) -> ProgressReporter:
    """Return the reporter of an unfinished run, or of a new run under the next version name."""
    version = record.version if record else env.registry.next_version(recipe_name, env.runs.names())
    return ProgressReporter(env.loop_directory, env.display, version, recipe_name, STEPS)


def run_steps(run: LoopRun) -> RunResult:
    """Run all steps after the snapshot; finished steps are skipped on a second call."""
    decision = learn(run)
    if not decision.passed:
        return stop_at_gate(run, decision)

    admit(run, decision)
    if run.env.rollout is None:
        return conclude(run.record, "passed", "the gate passed; no rollout was requested", run.env)
    end = run_canary(run, run.env.rollout)
    promoted, version = end.verdict is Verdict.PROMOTE, run.record.version
    stage = VersionStage.PROMOTED if promoted else VersionStage.ROLLED_BACK
    run.env.registry.note(version, stage, end.reason, version)
    return conclude(run.record, "promoted" if promoted else "rolled back", end.reason, run.env)


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
        StageRun("ppo", run_policy, config.ppo),
    )
    if not check.passed():
        return decide(check.checks())
    return decide([*check.checks(), *evaluate(run, outputs[-1])])


def train(run: LoopRun, *stages: StageRun[Any]) -> list[Manifest]:
    """Run stages as steps of the run.

    A stage with the same name resumes from its checkpoint.
    """
    storage, config = run.directory / STAGES, run.config
    prefix = f"checkpoints/{run.record.version}" if config.checkpoints_in_bucket else None
    return run_stages(stages, storage, config.group, _StageProgress(run), prefix, run.env.tracking)


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
        compared = compare(run.config.evaluation, run.env.judge)
        measure_tasks(run)
        step.detail = f"win rate {compared.win_rate.candidate:.3f}"
    # After an alarm the exported update is not the last measured update.
    exported = int(candidate.report["exported_update"])
    updates = read_progress(run.directory / STAGES / "ppo" / PROGRESS)
    kls = [update.metrics["kl"] for update in updates if update.step <= exported]
    gate, record = run.config.gate, run.record
    store = ScoreStore(run.env.loop_directory)
    return [
        *check_candidate(compared, kls[-1] if kls else 0.0, gate),
        *check_scores(store, record.version, record.incumbent, gate),
    ]


def measure_tasks(run: LoopRun) -> None:
    """Measure candidate and incumbent on the tasks of the gate, and store their scores.

    Scores that are stored and comparable are not measured again, for example the incumbent's. A
    score of another model under the name of a version is replaced.
    """
    store, wanted = ScoreStore(run.env.loop_directory), run.config.gate.tasks
    kinds = [kind for kind in Kind if kind in wanted]
    probes = set(wanted) & set(probe_tasks(kinds))
    styles, style_list = probes - set(kinds), style_items_sha256(kinds)
    evaluation, candidate = run.config.evaluation, run.record.version
    for version, directory in (
        (candidate, evaluation.candidate_directory),
        (run.record.incumbent, evaluation.incumbent_directory),
    ):
        found, others = store.scores(version), store.scores(candidate)
        model_sha256 = hash_files(directory)
        foreign = [t for t in found if found[t].model_sha256 not in ("", model_sha256)]
        missing = [
            t for t in wanted if t in foreign or not _is_measured(found.get(t), others.get(t))
        ]
        # An operator may have measured the style on the answers of other kinds.
        missing += [t for t in styles if t in found and found[t].items_sha256 != style_list]
        if probes & set(missing):
            model = ChatModel(directory, place_of(evaluation))
            runner = open_sandbox(os.environ) if Kind.KNOWLEDGE in kinds else None
            answerer = model.answer_greedily
            measured = measure(
                ScoredModel(version, sha256=model_sha256),
                answerer,
                kinds,
                sandbox=runner,
                complete_kinds=kinds,
            )
            write_scores(store, measured, replace_model=True)
        choice = ModelChoice(str(directory), run.env.state, version=version)
        for restart in (False, True):
            benchmarks = [t for t in missing if t in BENCHMARKS and (t in foreign) == restart]
            if benchmarks:
                chosen = [BENCHMARKS[task] for task in benchmarks]
                run_benchmarks(chosen, choice, store, restart=restart)


def _is_measured(found: TaskScore | None, other: TaskScore | None) -> bool:
    if found is None or other is None or not found.is_complete or found.source != WEIGHTS:
        return False
    try:
        require_comparable(found, other)
    except ScoreError:
        return False  # measured by an earlier release, whose probes or rules were different
    return True


def admit(run: LoopRun, decision: Decision) -> None:
    """Record that the gate passed, and copy the candidate into the registry."""
    with run.reporter.step("gate") as step:
        step.detail = decision.reason
        _write_gate(run, decision)
        registry, version = run.env.registry, run.record.version
        directory = registry.admit(run.config.ppo.output_directory, version)
        if run.env.store is not None:
            run.env.store.upload(directory, version)
        registry.note(version, VersionStage.GATED, decision.reason, version)


def stop_at_gate(run: LoopRun, decision: Decision) -> RunResult:
    """Record the verdict of a gate without a pass, and end the run."""
    verdict, version = decision.verdict.value, run.record.version
    with run.reporter.step("gate") as step:
        step.state, step.detail = StepState(verdict), decision.reason
        _write_gate(run, decision)
        run.env.registry.note(version, VersionStage(verdict), decision.reason, version)
    return conclude(run.record, verdict, decision.reason, run.env)


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
            lambda reading, passed: run.reporter.move("canary", passed, reading.text()),
        )
        write_json(run.directory / CANARY, plain(asdict(end)))
        step.detail = end.reason
        if end.verdict is not Verdict.PROMOTE:
            step.state = StepState.REFUSED
    return end


def _write_gate(run: LoopRun, decision: Decision) -> None:
    write_json(run.directory / GATE, decision.fields())
