"""The loop that PPO and GRPO share: sample, score, then stop or learn.

Advantages and further networks differ by method. Each method is an Algorithm in ppo.py or grpo.py.
Each update is a function of the previous state and of (seed, update), so an interrupted run resumes
with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol

import torch
from torch import Tensor

from training.data.order import rows_of_step
from training.data.seeds import seed_of
from training.errors import ConfigError
from training.losses.policy import PolicyLoss
from training.model.backbone import Backbone
from training.model.lora import LoraConfig
from training.optim.adam import OptimizerConfig
from training.parallelism.layout import Parallelism, gathered, whole_weights
from training.rl.alarms import Limits, alarm, record_figures
from training.rl.correction import check_staleness, version_of
from training.rl.experience import E, Experience, ScoringConfig
from training.rl.minibatches import minibatches
from training.rl.networks import Sources
from training.rl.rollout import CachedEngine, Rollout, RolloutEngine, SampleRequest
from training.rl.samplers import RemoteSampling, SamplingPlan
from training.rl.scores import FigureSource, Score
from training.runtime.context import (
    Lineage,
    Machine,
    Progress,
    RunContext,
    Sample,
    require_divisible,
)
from training.runtime.machine import Autocast, sampling_threads
from training.runtime.ranges import (
    Count,
    CountOrZero,
    FractionBelowOne,
    Limit,
    Positive,
    Range,
    WeightCap,
    check_ranges,
)
from training.runtime.ranks import Ranks
from training.runtime.training_state import TrainingState
from training.stages.prompts import Prompts, SftMix

FIRST_UPDATE = "sampling and scoring the first update"  # displayed: it may take minutes
SHOWN_PROMPTS = 4  # per checkpoint, in the report

EngineOfUpdate = Callable[[int], RolloutEngine]
"""Return the engine for an update: the policy of this process, or copies with its weights or
slightly older ones."""


@dataclass(frozen=True)
class PolicyConfig:
    """Configuration that PPO and GRPO share.

    data_path: JSON lines {"messages": [...], "task": str = ""}. Scores come from the reward model,
    or from a verifier passed to the stage if there is no reward model. The reference is
    model_directory, unchanged. output_directory becomes a model directory. With `lora` all networks
    share the base weights.

    Attributes:
        updates: number of updates (sample, score, learn), at least 1
        prompts_per_update: prompts sampled in an update, all workers together; at least 1
        samples_per_prompt: responses to each prompt, at least 1; GRPO compares them and needs 2
        minibatch_rows: responses per optimizer step, all workers together; at least 1; divides
            prompts_per_update * samples_per_prompt
        epochs_per_update: passes over the responses of an update, at least 1
        early_stop_nats: KL of the new to the old policy, in nats per token, above which an update
            ends early; above 0; none: never
        max_prompt_tokens: tokens of a prompt, at least 1; longer prompts are dropped and counted
        max_response_tokens: tokens of a response, at least 1; longer responses are cut off
        temperature: sampling temperature, above 0; 1: the distribution of the policy
        importance_cap: maximum importance weight of a token for differences between trainer and
            sampler, at least 1; none: no difference
        max_staleness_updates: updates that the weights of remote samplers may lag behind, at least
            0; with 1 or more they work one update ahead
        judge_directory: a reward model for monitoring only: its score must not fall while the
            trained score rises; none: no monitoring
        judge_base_directory: base model of the judge; needed with judge_directory
        kl_ceiling_nats: KL to the reference, in nats per response, above which training stops;
            above 0; none: never
        length_floor_fraction: share of the mean response tokens of the first update below which
            training stops; in [0, 1)
        gold_drop: fall of the judge's normalised score from its maximum above which training stops
            while the score rises; at least 0
        policy_optimizer: optimizer of the policy
        sft_mix: examples added to each minibatch against forgetting; none: no examples
        lora: low-rank adapters in place of all weights; none: all weights are trained
        vocabulary_rows: number of embedding rows to train with, at least 1 and all that the data
            uses; only with lora; none: all rows
        checkpoint_activations: recompute blocks in the backward pass: less memory, more time
        checkpoint_every_updates: updates between checkpoints (with sample responses for the
            report), at least 1
        seed: seed for the order of rows and for all random numbers
        machine: threads, number type and device
        parallelism: how workers share every network, including frozen ones
    """

    model_directory: Path
    reward_model_directory: Path | None
    data_path: Path
    output_directory: Path
    lineage: Lineage
    updates: Count = 100
    prompts_per_update: Count = 32
    samples_per_prompt: Count = 1
    minibatch_rows: Count = 16
    epochs_per_update: Count = 2
    early_stop_nats: Limit | None = None
    max_prompt_tokens: Count = 256
    max_response_tokens: Count = 64
    temperature: Positive = 1.0
    importance_cap: WeightCap | None = None
    max_staleness_updates: CountOrZero = 0
    judge_directory: Path | None = None
    judge_base_directory: Path | None = None
    kl_ceiling_nats: Limit | None = 20.0
    length_floor_fraction: FractionBelowOne = 0.25
    gold_drop: Annotated[float, Range()] = 0.5
    policy_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sft_mix: SftMix | None = None
    lora: LoraConfig | None = None
    vocabulary_rows: Count | None = None
    checkpoint_activations: bool = False
    checkpoint_every_updates: Count = 5
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    parallelism: Parallelism = field(default_factory=Parallelism)

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.vocabulary_rows is not None and self.lora is None:
            raise ConfigError(
                "vocabulary_rows: needs lora, as full training would lose the other rows",
                field="vocabulary_rows",
                reason="CONFLICT",
            )
        if self.rows_per_update % self.minibatch_rows:
            raise ConfigError(
                f"minibatch_rows: {self.minibatch_rows} does not divide the {self.rows_per_update} "
                f"rows of an update ({self.prompts_per_update} prompts x {self.samples_per_prompt} "
                f"samples); {self._divisors()} would",
                field="minibatch_rows",
                reason="OUT_OF_RANGE",
                limit=self._divisors(),
            )
        if (self.judge_directory is None) != (self.judge_base_directory is None):
            raise ConfigError(
                "judge_directory, judge_base_directory: both or neither must be set",
                field="judge_directory" if self.judge_directory is None else "judge_base_directory",
                reason="MISSING",
            )
        if self.max_staleness_updates > 0 and self.importance_cap is None:
            raise ConfigError(
                "max_staleness_updates: samples of older weights need importance_cap",
                field="max_staleness_updates",
                reason="CONFLICT",
            )

    def _divisors(self) -> str:
        """Return the largest divisors of an update's rows up to the requested size."""
        rows = self.rows_per_update
        parts = [part for part in range(min(rows, self.minibatch_rows), 0, -1) if rows % part == 0]
        return " or ".join(map(str, parts[:2]))

    @property
    def rows_per_update(self) -> int:
        """Responses in one update, all workers together."""
        return self.prompts_per_update * self.samples_per_prompt

    @property
    def is_one_step(self) -> bool:
        """True if an update consists of one optimizer step over all its rows.

        Then the scored policy and the trained policy are the same.
        """
        return self.epochs_per_update == 1 and self.minibatch_rows == self.rows_per_update

    @property
    def limits(self) -> Limits:
        """Thresholds of the alarms that stop training."""
        return Limits(self.kl_ceiling_nats, self.length_floor_fraction, self.gold_drop)


@dataclass(frozen=True)
class PolicyInputs:
    """Inputs of an algorithm in addition to its networks and its config.

    `gold` is a reward model for monitoring only. `verifier` is the source of the scores if it
    reports figures on its verdicts.
    """

    prompts: Prompts
    score: Score
    autocast: Autocast
    ranks: Ranks
    gold: Score | None = None
    verifier: FigureSource | None = None

    def scoring(self, config: PolicyConfig) -> ScoringConfig:
        """Return how to score a rollout, in chunks of one minibatch."""
        rows = max(1, config.minibatch_rows // self.ranks.data_size)
        return ScoringConfig(
            score=self.score,
            temperature=config.temperature,
            rows=rows,
            ranks=self.ranks,
            importance_cap=config.importance_cap,
            gold=self.gold,
            verifier=self.verifier,
            keeps_graph=config.is_one_step,
        )


class Algorithm(Protocol[E]):
    """The parts in which PPO and GRPO differ. `numbers` are the scalars of a checkpoint."""

    @property
    def state(self) -> TrainingState:
        """Return everything that is trained."""

    def initial_numbers(self) -> dict[str, float]:
        """Return the numbers before the first update."""

    def make_experience(
        self, rollout: Rollout, numbers: dict[str, float]
    ) -> tuple[E, dict[str, float]]:
        """Score a rollout; return the training data and figures (means over all ranks)."""

    def learn(self, experience: E, update: int, numbers: dict[str, float]) -> dict[str, float]:
        """Run all epochs of one update; return figures."""


@dataclass(frozen=True)
class Outcome:
    """Result of training. `exported_update` is the number of updates behind the final weights."""

    exported_update: int
    stopped_because: str
    numbers: dict[str, float]


def train(
    stage: str,
    algorithm: Algorithm[E],
    prompts: Prompts,
    config: PolicyConfig,
    context: RunContext,
    engines: EngineOfUpdate,
) -> Outcome:
    """Train until config.updates or the first alarm.

    After an alarm the last healthy weights are restored.
    """
    check_shares(config, context.ranks)
    numbers = {"step": 0.0} | algorithm.initial_numbers()
    if checkpoint := context.checkpoints.latest():
        numbers = algorithm.state.read(checkpoint)
    else:
        context.checkpoints.save(0, partial(algorithm.state.write, numbers=numbers))
    write_state = partial(algorithm.state.write, numbers=numbers)
    for update in range(int(numbers["step"]), config.updates):
        rollout = sample_rollout(engines(update), prompts, update, config, context.ranks)
        check_staleness(rollout.version, update, config.max_staleness_updates)
        experience, figures = algorithm.make_experience(rollout, numbers)
        record_figures(numbers, figures)
        if reason := alarm(numbers, config.limits):
            # The figures describe the weights before this update, so checkpoints before it count.
            healthy = context.checkpoints.latest(before=update)
            exported = int(algorithm.state.read(healthy)["step"]) if healthy else update
            return Outcome(exported, f"update {update}: {reason}", numbers)
        figures |= algorithm.learn(experience, update, numbers) | {
            "tokens": figures["response_tokens"] * config.rows_per_update
        }
        numbers["step"] = update + 1
        due = (update + 1) % config.checkpoint_every_updates == 0 or update + 1 == config.updates
        if due:
            for shown_sample in scored_samples(stage, experience, prompts, update):
                context.samples(shown_sample)
            context.checkpoints.save(update + 1, write_state)
        context.progress(Progress(stage, update + 1, config.updates, figures))
        context.stop_if_requested(stage, update + 1, write_state, saved=due)
    return Outcome(config.updates, "", numbers)


def check_shares(config: PolicyConfig, ranks: Ranks) -> None:
    """Check that the workers can share prompts and rows evenly; raises as require_divisible."""
    counts = {
        "prompts_per_update": config.prompts_per_update,
        "minibatch_rows": config.minibatch_rows,
    }
    counts |= {"sft_mix.rows": config.sft_mix.rows} if config.sft_mix else {}
    require_divisible(counts, ranks)


def rollout_engines(
    policy: Backbone, sources: Sources, prompts: Prompts, config: PolicyConfig, context: RunContext
) -> EngineOfUpdate:
    """Return the remote samplers of the context, or the policy itself without samplers."""
    if context.samplers is None:
        return local_engine(policy, prompts)
    orders = SamplingPlan(
        sources,
        prompts.stop_ids,
        config.updates,
        request=lambda update: rollout_request(update, prompts, config, context.ranks),
        ahead=config.max_staleness_updates > 0,
        drained_every_updates=config.checkpoint_every_updates,
    )
    copies = context.samplers.open(orders, context.ranks)
    return RemoteSampling(copies, lambda: whole_weights(policy, context.ranks), orders)


def local_engine(policy: Backbone, prompts: Prompts) -> EngineOfUpdate:
    """Sample with the policy in this process, with its weights at that update."""
    return lambda update: GatheredPolicy(CachedEngine(policy, prompts.stop_ids, version_of(update)))


@dataclass(frozen=True)
class GatheredPolicy:
    """Engine that gathers the whole policy for the time of sampling.

    Workers sample different numbers of tokens and therefore cannot compute a split model in step.
    """

    engine: CachedEngine

    def sample(
        self,
        token_ids: Sequence[Sequence[int]],
        n: int,
        max_new: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> Rollout:
        """Implement `RolloutEngine.sample`."""
        with gathered(self.engine.backbone.decoder):
            return self.engine.sample(token_ids, n, max_new, temperature, seeds)


def sample_rollout(
    engine: RolloutEngine, prompts: Prompts, update: int, config: PolicyConfig, ranks: Ranks
) -> Rollout:
    """Return the responses of this rank in an update."""
    with sampling_threads(config.machine):
        rollout = rollout_request(update, prompts, config, ranks).of_engine(engine)
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
    """Return the prompts of this rank in an update, with their indices among those of all ranks."""
    rows = rows_of_step(update, config.prompts_per_update, len(prompts.ids), config.seed)
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


def train_epochs(
    experience: E,
    step: Callable[[E, int], Tensor],
    losses: Sequence[str],
    config: PolicyConfig,
    update: int,
    ranks: Ranks,
) -> dict[str, float]:
    """Run the epochs of an update over shuffled minibatches.

    Args:
        step: takes a minibatch and its number in the update, and makes one optimizer step; returns
            its minibatch_sums.
        losses: names of the losses in those sums.

    Returns:
        minibatches, clip_fraction and approximate_kl (means over tokens), and each loss (mean over
            minibatches).
    """
    live_B = experience.mask_BR.any(dim=1)
    rows = config.minibatch_rows // ranks.data_size
    totals, steps, drifted = torch.zeros(3 + len(losses)), 0, False
    for epoch in range(config.epochs_per_update):
        for index in minibatches(
            live_B, rows, seed_of(config.seed, "minibatches", update, epoch), ranks
        ):
            sums = ranks.sum(step(experience.rows(index), steps))
            totals, steps = totals + sums, steps + 1
            drifted = (
                config.early_stop_nats is not None
                and float(sums[2] / sums[0]) > config.early_stop_nats
            )
            if drifted:
                break
        if drifted:
            break
    tokens, clipped, approximate_kl, *summed = totals.tolist()
    figures = {name: total / max(1, steps) for name, total in zip(losses, summed, strict=True)}
    means = {
        "clip_fraction": clipped / max(1, tokens),
        "approximate_kl": approximate_kl / max(1, tokens),
    }
    return figures | means | {"minibatches": float(steps)}


def minibatch_sums(mask_BR: Tensor, policy: PolicyLoss, *losses: Tensor) -> Tensor:
    """Return the sums of this rank over a minibatch.

    In order: tokens, clipped tokens, approximate KL, losses.
    """
    numbers = (mask_BR.sum(), policy.clipped_tokens, policy.approximate_kl_sum, *losses)
    return torch.stack([number.detach().float() for number in numbers])
