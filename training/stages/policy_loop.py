"""The loop that PPO and GRPO are: sample, judge, stop or learn. What differs, how advantages come
about and what else learns, is an Algorithm; ppo.py and grpo.py each hold one.

Each update is a function of the state before it and of (seed, update), so a killed run goes on bit
by bit.
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
from training.model.backbone import Backbone
from training.model.lora import LoraConfig
from training.optim.adam import OptimizerConfig
from training.optim.ranks import Ranks
from training.parallelism import Parallelism, gathered, whole_weights
from training.ranges import (
    Count,
    CountOrZero,
    FractionBelowOne,
    Limit,
    Positive,
    Range,
    WeightCap,
    check_ranges,
)
from training.rl.alarms import Limits, alarm, note
from training.rl.correction import refuse_stale, version_of
from training.rl.experience import E, Experience, ScoringConfig
from training.rl.losses import PolicyLoss
from training.rl.minibatches import minibatches
from training.rl.networks import Sources
from training.rl.rollout import CachedEngine, Rollout, RolloutEngine, SampleRequest
from training.rl.samplers import RemoteSampling, SamplingPlan
from training.rl.scores import FigureSource, Score
from training.stages.context import (
    ConfigError,
    Lineage,
    Machine,
    Progress,
    RunContext,
    Sample,
    require_divisible,
)
from training.stages.machine import Autocast, sampling_threads
from training.stages.prompts import Prompts, SftMix
from training.stages.state import TrainingState

FIRST_UPDATE = "sampling and scoring the first update"  # which may take minutes, for whoever waits
SHOWN = 4  # prompts of an update that is checkpointed, for the run's page

Engines = Callable[[int], RolloutEngine]
"""The engine that samples an update: the policy in this process, or copies of it that have its weights or slightly older ones."""


@dataclass(frozen=True)
class PolicyConfig:
    """data_path: JSON lines {"messages": [...], "task": str = ""}. Scores come from the reward
    model, or from a verifier that is passed to the stage where there is none. The reference is
    model_directory as it is.

    output_directory becomes a model directory; with `lora` all networks share the base weights.

    Attributes:
        updates: how often it samples, judges and learns; at least 1
        prompts_per_update: prompts sampled in an update, all workers together; at least 1
        samples_per_prompt: responses to each prompt, at least 1; GRPO compares them and needs 2
        minibatch_rows: responses a step of the optimizer, all workers together; at least 1; divides
            prompts_per_update * samples_per_prompt
        epochs_per_update: passes over the responses of an update, at least 1
        early_stop_nats: KL of the new to the old policy, in nats a token, above which an update
            ends early; above 0; none: never
        max_prompt_tokens: of a prompt, at least 1; longer ones are dropped and counted
        max_response_tokens: of a response, at least 1; it is cut off there
        temperature: of sampling, above 0; 1: as the policy says
        importance_cap: most that a token counts because trainer and sampler differ, at least 1;
            none: they are one and the same
        max_staleness_updates: updates that the weights of samplers apart may be behind, at least 0;
            from 1 on they go one update ahead
        judge_directory: a reward model that nothing is learned from, which must not fall while the
            score rises; none: there is none
        judge_base_directory: the model that the judge stands on; needed with judge_directory
        kl_ceiling_nats: KL to the reference, in nats a response, above which training stops; above
            0; none: never
        length_floor_fraction: of the first update's mean response tokens, below which training
            stops; in [0, 1)
        gold_drop: fall of the judge's normalised score from its best, above which training stops
            while the score rises; at least 0
        policy_optimizer: of the policy
        sft_mix: examples that each minibatch learns too, against forgetting; none: none
        lora: low-rank adapters in place of all weights; none: all weights learn
        vocabulary_rows: train with so many rows of the embedding, at least 1 and what the data
            uses; only with lora; none: all of them
        checkpoint_activations: compute blocks again in the backward pass: less memory, more time
        checkpoint_every_updates: updates from one checkpoint, with answers for the page, to the
            next; at least 1
        seed: of the order of rows, and of all that is drawn
        machine: threads, number type and device
        parallelism: how workers share every network, the frozen ones too
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
                "vocabulary_rows: only with lora, full training would lose the other rows",
                field="vocabulary_rows",
                reason="CONFLICT",
            )
        if self.rows_per_update % self.minibatch_rows:
            raise ConfigError(
                f"minibatch_rows: {self.minibatch_rows} does not divide the {self.rows_per_update} rows of an update "
                f"({self.prompts_per_update} prompts x {self.samples_per_prompt} samples); {self._dividing()} would",
                field="minibatch_rows",
                reason="OUT_OF_RANGE",
                limit=self._dividing(),
            )
        if (self.judge_directory is None) != (self.judge_base_directory is None):
            raise ConfigError(
                "judge_directory, judge_base_directory: one without the other",
                field="judge_directory" if self.judge_directory is None else "judge_base_directory",
                reason="MISSING",
            )
        if self.max_staleness_updates > 0 and self.importance_cap is None:
            raise ConfigError(
                "max_staleness_updates: older weights sample otherwise, which needs importance_cap",
                field="max_staleness_updates",
                reason="CONFLICT",
            )

    def _dividing(self) -> str:
        """The largest parts of an update that are no larger than what was asked for."""
        rows = self.rows_per_update
        parts = [part for part in range(min(rows, self.minibatch_rows), 0, -1) if rows % part == 0]
        return " or ".join(map(str, parts[:2]))

    @property
    def rows_per_update(self) -> int:
        """Responses in one update, all workers together."""
        return self.prompts_per_update * self.samples_per_prompt

    @property
    def is_one_step(self) -> bool:
        """Whether an update learns from all its rows at once, and once: then the policy that is
        judged is the one that learns.
        """
        return self.epochs_per_update == 1 and self.minibatch_rows == self.rows_per_update

    @property
    def limits(self) -> Limits:
        """When to stop."""
        return Limits(self.kl_ceiling_nats, self.length_floor_fraction, self.gold_drop)


@dataclass(frozen=True)
class PolicyInputs:
    """What an algorithm works in, beside its networks and its config. gold: a judge that nothing is
    learned from. verifier: what the scores come from, where it is one that tells of its verdicts.
    """

    prompts: Prompts
    score: Score
    autocast: Autocast
    ranks: Ranks
    gold: Score | None = None
    verifier: FigureSource | None = None

    def scoring(self, config: PolicyConfig) -> ScoringConfig:
        """How a rollout is read: in parts of a minibatch."""
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
    """What PPO and GRPO do each in its own way. numbers: what a checkpoint keeps beside tensors."""

    @property
    def state(self) -> TrainingState:
        """All that learns."""

    def initial_numbers(self) -> dict[str, float]:
        """The numbers before the first update."""

    def make_experience(
        self, rollout: Rollout, numbers: dict[str, float]
    ) -> tuple[E, dict[str, float]]:
        """What to learn from the rollout, and figures about it: means over all ranks."""

    def learn(self, experience: E, update: int, numbers: dict[str, float]) -> dict[str, float]:
        """All epochs of one update, and figures about them."""


@dataclass(frozen=True)
class Outcome:
    """How training ended. exported_update: updates behind the weights that the policy now has."""

    exported_update: int
    stopped_because: str
    numbers: dict[str, float]


def train(
    stage: str,
    algorithm: Algorithm[E],
    prompts: Prompts,
    config: PolicyConfig,
    context: RunContext,
    engines: Engines,
) -> Outcome:
    """Learns until config.updates or the first alarm, after which the newest healthy weights are
    back.
    """
    check_shares(config, context.ranks)
    numbers = {"step": 0.0} | algorithm.initial_numbers()
    if checkpoint := context.checkpoints.latest():
        numbers = algorithm.state.read(checkpoint)
    else:
        context.checkpoints.save(0, partial(algorithm.state.write, numbers=numbers))
    keep = partial(algorithm.state.write, numbers=numbers)
    for update in range(int(numbers["step"]), config.updates):
        rollout = sample(engines(update), prompts, update, config, context.ranks)
        refuse_stale(rollout.version, update, config.max_staleness_updates)
        experience, figures = algorithm.make_experience(rollout, numbers)
        note(numbers, figures)
        if reason := alarm(numbers, config.limits):
            healthy = context.checkpoints.latest(before=update)
            exported = int(algorithm.state.read(healthy)["step"]) if healthy else update
            return Outcome(exported, f"update {update}: {reason}", numbers)
        figures |= algorithm.learn(experience, update, numbers) | {
            "tokens": figures["response_tokens"] * config.rows_per_update
        }
        numbers["step"] = update + 1
        due = (update + 1) % config.checkpoint_every_updates == 0 or update + 1 == config.updates
        if due:
            for shown in samples(stage, experience, prompts, update):
                context.samples(shown)
            context.checkpoints.save(update + 1, keep)
        context.progress(Progress(stage, update + 1, config.updates, figures))
        context.stop_if_requested(stage, update + 1, keep, kept=due)
    return Outcome(config.updates, "", numbers)


def check_shares(config: PolicyConfig, ranks: Ranks) -> None:
    """Raises: ConfigError: see require_divisible."""
    counts = {
        "prompts_per_update": config.prompts_per_update,
        "minibatch_rows": config.minibatch_rows,
    }
    counts |= {"sft_mix.rows": config.sft_mix.rows} if config.sft_mix else {}
    require_divisible(counts, ranks)


def rollout_engines(
    policy: Backbone, made_of: Sources, prompts: Prompts, config: PolicyConfig, context: RunContext
) -> Engines:
    """The context's samplers, or else the policy itself."""
    if context.samplers is None:
        return local_engine(policy, prompts)
    orders = SamplingPlan(
        made_of,
        prompts.stop_ids,
        config.updates,
        request=lambda update: rollout_request(update, prompts, config, context.ranks),
        ahead=config.max_staleness_updates > 0,
        drained_every_updates=config.checkpoint_every_updates,
    )
    copies = context.samplers.open(orders, context.ranks)
    return RemoteSampling(copies, lambda: whole_weights(policy, context.ranks), orders)


def local_engine(policy: Backbone, prompts: Prompts) -> Engines:
    """The policy itself, as it is when an update samples."""
    return lambda update: GatheredPolicy(CachedEngine(policy, prompts.stop_ids, version_of(update)))


@dataclass(frozen=True)
class GatheredPolicy:
    """Workers sample different numbers of tokens, so each has all of the policy meanwhile."""

    engine: CachedEngine

    def sample(
        self,
        token_ids: Sequence[Sequence[int]],
        n: int,
        max_new: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> Rollout:
        """See RolloutEngine."""
        with gathered(self.engine.backbone.decoder):
            return self.engine.sample(token_ids, n, max_new, temperature, seeds)


def sample(
    engine: RolloutEngine, prompts: Prompts, update: int, config: PolicyConfig, ranks: Ranks
) -> Rollout:
    """This rank's responses of the update."""
    with sampling_threads(config.machine):
        rollout = rollout_request(update, prompts, config, ranks).of_engine(engine)
    asked = [
        row
        for row, _ in _drawn(update, prompts, config, ranks)
        for _ in range(config.samples_per_prompt)
    ]
    return replace(rollout, tasks=tuple(prompts.tasks[row] for row in asked))


def rollout_request(
    update: int, prompts: Prompts, config: PolicyConfig, ranks: Ranks
) -> SampleRequest:
    """What this rank asks in an update. Each prompt has its own seed, so neither ranks nor who
    samples change what is sampled.
    """
    drawn = _drawn(update, prompts, config, ranks)
    return SampleRequest.of(
        [prompts.ids[row] for row, _ in drawn],
        config.samples_per_prompt,
        config.max_response_tokens,
        config.temperature,
        [seed_of(config.seed, "rollout", update, place) for _, place in drawn],
    )


def _drawn(
    update: int, prompts: Prompts, config: PolicyConfig, ranks: Ranks
) -> list[tuple[int, int]]:
    """This rank's prompts of an update, each with its place among those of all ranks."""
    rows = rows_of_step(update, config.prompts_per_update, len(prompts.ids), config.seed)
    return ranks.share([(row, place) for place, row in enumerate(rows)])


def samples(stage: str, experience: Experience, prompts: Prompts, update: int) -> Iterator[Sample]:
    """A response to each of the first prompts of an update, as it was sampled and scored."""
    scores = experience.scores_B[:: experience.rollout.copies].tolist()
    for (asked, said), score in zip(
        experience.rollout.read(prompts.decode, SHOWN), scores, strict=False
    ):
        yield Sample(stage, update + 1, asked, said, score)


def train_epochs(
    experience: E,
    step: Callable[[E, int], Tensor],
    losses: Sequence[str],
    config: PolicyConfig,
    update: int,
    ranks: Ranks,
) -> dict[str, float]:
    """Shuffled minibatches, epoch after epoch.

    Args:
        step: learns from a minibatch, given its number in the update; returns minibatch_sums() it.
        losses: names of the losses in those sums.

    Returns:
        minibatches, clip_fraction and approximate_kl (means over tokens), and each loss (mean over
        minibatches).
    """
    live_B = experience.mask_BR.any(dim=1)
    rows = config.minibatch_rows // ranks.data_size
    totals, taken, drifted = torch.zeros(3 + len(losses)), 0, False
    for epoch in range(config.epochs_per_update):
        for index in minibatches(
            live_B, rows, seed_of(config.seed, "minibatches", update, epoch), ranks
        ):
            sums = ranks.sum(step(experience.rows(index), taken))
            totals, taken = totals + sums, taken + 1
            drifted = (
                config.early_stop_nats is not None
                and float(sums[2] / sums[0]) > config.early_stop_nats
            )
            if drifted:
                break
        if drifted:
            break
    tokens, clipped, approximate_kl, *summed = totals.tolist()
    figures = {name: total / max(1, taken) for name, total in zip(losses, summed, strict=True)}
    means = {
        "clip_fraction": clipped / max(1, tokens),
        "approximate_kl": approximate_kl / max(1, tokens),
    }
    return figures | means | {"minibatches": float(taken)}


def minibatch_sums(mask_BR: Tensor, policy: PolicyLoss, *losses: Tensor) -> Tensor:
    """This rank's part of a minibatch: tokens, clipped tokens, approximate KL, then the losses."""
    numbers = (mask_BR.sum(), policy.clipped_tokens, policy.approximate_kl_sum, *losses)
    return torch.stack([number.detach().float() for number in numbers])
