"""Updates, checkpoints, resume, progress and output of PPO and GRPO.

The algorithms are in ppo.py and grpo.py, their inputs in policy_inputs.py.

Each update is a function of the previous state and of (seed, update), so an interrupted run resumes
with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from training.artifacts.manifest import Manifest
from training.data.seeds import rows_of_step, seed_of
from training.errors import ConfigError
from training.model.backbone import Backbone
from training.parallelism.layout import gathered, whole_weights
from training.rl.alarms import alarm, record_figures
from training.rl.correction import check_staleness, version_of
from training.rl.experience import Experience
from training.rl.networks import Sources
from training.rl.rollout import CachedEngine, Rollout, RolloutEngine, SampleRequest
from training.rl.rollout_server.copies import ServerSamplers
from training.rl.rollout_server.weight_sync import check_mismatch
from training.rl.samplers import RemoteSampling, SamplingPlan
from training.runtime.context import (
    Progress,
    RunContext,
    Sample,
    require_divisible,
)
from training.runtime.machine import sampling_threads
from training.runtime.ranks import Ranks
from training.runtime.training_state import TrainingState
from training.stages.artifact import publish_model
from training.stages.policy_config import PolicyConfig
from training.stages.policy_inputs import Prompts

SHOWN_PROMPTS = 4  # per checkpoint, in the report

EngineOfUpdate = Callable[[int], RolloutEngine]
"""Return the engine for an update: the policy of this process, or copies with its weights or
slightly older ones."""


@dataclass(frozen=True)
class Outcome:
    """Result of training. `exported_update` is the number of updates behind the final weights."""

    exported_update: int
    stopped_because: str
    numbers: dict[str, float]


class PolicyLoop:
    """Updates of a run: resume, sampling, alarms, checkpoints and progress.

    The stage iterates over `remaining_updates` and calls `sample`, `must_stop` and `finish` once in
    each update. `numbers` are the scalars of a checkpoint: the finished updates ("step"), the
    figures of the alarms, and those that the stage adds.

    Args:
        numbers: scalars of the stage before the first update.

    Raises:
        ConfigError: the workers cannot share the rows evenly.
    """

    def __init__(
        self,
        stage: str,
        state: TrainingState,
        numbers: Mapping[str, float],
        prompts: Prompts,
        config: PolicyConfig,
        context: RunContext,
        engines: EngineOfUpdate,
    ) -> None:
        check_shares(config, context.ranks)
        self._stage, self._state, self._prompts = stage, state, prompts
        self._config, self._context, self._engines = config, context, engines
        self.numbers = {"step": 0.0, **numbers}
        if checkpoint := context.checkpoints.latest():
            self.numbers = state.read(checkpoint)
        else:
            context.checkpoints.save(0, self._write_state)
        self.outcome = Outcome(config.updates, "", self.numbers)

    def remaining_updates(self) -> range:
        """Return the updates that the newest checkpoint does not contain."""
        return range(int(self.numbers["step"]), self._config.updates)

    def sample(self, update: int) -> Rollout:
        """Return the responses of this rank to the prompts of an update.

        Raises:
            StaleRolloutError: the weights of the sampler are older than the config allows.
        """
        engine = self._engines(update)
        rollout = sample_rollout(engine, self._prompts, update, self._config, self._context.ranks)
        check_staleness(rollout.version, update, self._config.max_staleness_updates)
        return rollout

    def must_stop(self, update: int, figures: Mapping[str, float]) -> bool:
        """Record the figures of a rollout; return True and end the run if they raise an alarm.

        After an alarm the last healthy weights are restored, and `outcome` has the reason.

        Raises:
            SamplerMismatchError: log-probs of the rollout server differ too much from those here.
        """
        if (server := self._config.rollout_server) is not None:
            mismatch_nats = figures["sampler_mismatch"]
            check_mismatch(mismatch_nats, server.dtype, server.mismatch_limit_nats)
        record_figures(self.numbers, figures)
        reason = alarm(self.numbers, self._config.limits)
        if reason:
            # The figures describe the weights before this update, so checkpoints before it count.
            healthy = self._context.checkpoints.latest(before=update)
            exported = int(self._state.read(healthy)["step"]) if healthy else update
            self.outcome = Outcome(exported, f"update {update}: {reason}", self.numbers)
        return bool(reason)

    def finish(self, update: int, experience: Experience, figures: Mapping[str, float]) -> None:
        """Count the update, save a checkpoint if due, and report progress.

        Raises:
            StoppedError: a worker was asked to stop; the state is saved.
        """
        config, context, done = self._config, self._context, update + 1
        tokens = figures["response_tokens"] * config.rows_per_update
        self.numbers["step"] = done
        due = done % config.checkpoint_every_updates == 0 or done == config.updates
        if due:
            for sample in scored_samples(self._stage, experience, self._prompts, update):
                context.samples(sample)
            context.checkpoints.save(done, self._write_state)
        metrics = {**figures, "tokens": tokens}
        context.progress(Progress(self._stage, done, config.updates, metrics))
        context.stop_if_requested(self._stage, done, self._write_state, saved=due)

    def _write_state(self, directory: Path) -> None:
        self._state.write(directory, self.numbers)


def check_shares(config: PolicyConfig, ranks: Ranks) -> None:
    """Check that the workers can share prompts and rows evenly; raises as require_divisible."""
    counts = {
        "prompts_per_update": config.prompts_per_update,
        "minibatch_rows": config.minibatch_rows,
    }
    counts |= {"sft_mix.rows": config.sft_mix.rows} if config.sft_mix else {}
    require_divisible(counts, ranks)


@contextmanager
def rollout_engines(
    policy: Backbone, sources: Sources, prompts: Prompts, config: PolicyConfig, context: RunContext
) -> Iterator[EngineOfUpdate]:
    """Yield the rollout server, the remote samplers of the context, or the policy itself.

    A started server is stopped at the end of the block.

    Raises:
        ConfigError: both a server and remote samplers are given.
    """
    samplers = context.samplers
    with ExitStack() as stack:
        if config.rollout_server is not None:
            if samplers is not None:
                raise ConfigError(
                    "rollout_server: the run has rollout actors, which sample instead",
                    field="rollout_server",
                    reason="CONFLICT",
                )
            samplers = stack.enter_context(ServerSamplers(config.rollout_server))
        if samplers is None:
            yield local_engine(policy, prompts)
            return
        plan = SamplingPlan(
            sources,
            prompts.stop_ids,
            config.updates,
            request=lambda update: rollout_request(update, prompts, config, context.ranks),
            ahead=config.max_staleness_updates > 0,
            drained_every_updates=config.checkpoint_every_updates,
            policy=policy,
            fixed_prompts=prompts.ids,
            window_tokens=config.max_prompt_tokens + config.max_response_tokens,
        )
        copies = samplers.open(plan, context.ranks)
        yield RemoteSampling(copies, lambda: whole_weights(policy, context.ranks), plan)


def local_engine(policy: Backbone, prompts: Prompts) -> EngineOfUpdate:
    """Sample with the policy in this process, with its weights at that update."""
    return lambda update: GatheredPolicy(CachedEngine(policy, prompts.stop_ids, version_of(update)))


@dataclass(frozen=True)
class GatheredPolicy:
    """Engine that gathers the whole policy for the time of sampling.

    Workers sample different numbers of tokens and therefore cannot compute a split model in step.
    """

    engine: CachedEngine

    def sample(self, request: SampleRequest) -> Rollout:
        """Sample with the complete decoder."""
        with gathered(self.engine.backbone.decoder):
            return self.engine.sample(request)


def sample_rollout(
    engine: RolloutEngine, prompts: Prompts, update: int, config: PolicyConfig, ranks: Ranks
) -> Rollout:
    """Return the responses of this rank in an update."""
    with sampling_threads(config.machine):
        rollout = engine.sample(rollout_request(update, prompts, config, ranks))
    rows = [
        row
        for row, _ in _draw_prompts(update, prompts, config, ranks)
        for _ in range(config.samples_per_prompt)
    ]
    return replace(rollout, tasks=tuple(prompts.tasks[row] for row in rows))


def rollout_request(
    update: int, prompts: Prompts, config: PolicyConfig, ranks: Ranks
) -> SampleRequest:
    """Return the prompts and seeds of this rank in an update.

    Each prompt has its own seed, so the responses depend neither on the number of ranks nor on the
    sampler.
    """
    drawn = _draw_prompts(update, prompts, config, ranks)
    return SampleRequest.of(
        [prompts.ids[row] for row, _ in drawn],
        config.samples_per_prompt,
        config.max_response_tokens,
        config.temperature,
        [seed_of(config.seed, "rollout", update, index) for _, index in drawn],
    )


def _draw_prompts(
    update: int, prompts: Prompts, config: PolicyConfig, ranks: Ranks
) -> list[tuple[int, int]]:
    """Return the prompts of this rank in an update, with their indices among those of all ranks.

    Verifiable prompts are drawn from their own order and spread evenly among the others, so that
    workers have nearly equal shares of them.
    """
    tasks, others = config.verifiable_per_update, len(prompts.ids) - prompts.verifiable
    plain = config.prompts_per_update - tasks
    rows = rows_of_step(update, plain, others, config.seed)
    if tasks:
        seed = seed_of(config.seed, "verifiable")
        drawn = rows_of_step(update, tasks, prompts.verifiable, seed)
        places = [((at + 0.5) / plain, row) for at, row in enumerate(rows)]
        places += [((at + 0.5) / tasks, others + row) for at, row in enumerate(drawn)]
        rows = [row for _, row in sorted(places)]
    return ranks.share([(row, index) for index, row in enumerate(rows)])


def scored_samples(
    stage: str, experience: Experience, prompts: Prompts, update: int
) -> Iterator[Sample]:
    """Yield one scored response to each of the first prompts of an update."""
    scores = experience.scores_B[:: experience.rollout.copies].tolist()
    for (prompt, response), score in zip(
        experience.rollout.read(prompts.decode, SHOWN_PROMPTS), scores, strict=False
    ):
        yield Sample(stage, update + 1, prompt, response, score)


def publish_policy(
    config: PolicyConfig, context: RunContext, policy: Backbone, prompts: Prompts, outcome: Outcome
) -> Manifest:
    """Write the model directory and its manifest.

    Report: updates, stopped_because ("" or the reason), exported_update, dropped_too_long,
    contexts_shortened, and the figures of the alarms with the prefixes first_ and last_;
    verifiable_prompts with `verifiable`.
    """
    figures = {
        name: outcome.numbers[name]
        for name in sorted(outcome.numbers)
        if name.startswith(("first_", "last_"))
    }
    report = {
        "updates": config.updates,
        "exported_update": outcome.exported_update,
        "stopped_because": outcome.stopped_because,
        "dropped_too_long": prompts.dropped_too_long,
        "contexts_shortened": prompts.contexts_shortened,
        **figures,
    }
    if config.verifiable is not None:
        report["verifiable_prompts"] = prompts.verifiable
    judges = () if config.reward_model_directory is None else (config.reward_model_directory.name,)
    return publish_model(config, context, policy, report, judges)
