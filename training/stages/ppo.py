"""PPO against a reward model, with a critic, a KL penalty to the starting policy, and a stop on over-optimisation.

`run` opens files, `train` is the algorithm: sample, judge, learn, adjust the KL weight. Each update is a function of the state
before it and of (seed, update), so a killed run goes on bit by bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from training.data.chat import Chat, load_chat
from training.data.examples import read_prompts
from training.data.order import rows_of_step, seed_of
from training.manifest import Manifest
from training.model.checkpoint import read_config
from training.model.lora import LoraConfig
from training.model.reward import RewardModel
from training.model.vocabulary import VocabularyMap, choose_rows
from training.optim.adam import OptimizerConfig, build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.ranks import Ranks
from training.optim.schedule import learning_rate_at
from training.rl.experience import Experience, Judging, RewardShape, Score, judge
from training.rl.kl_control import KlConfig as KlConfig
from training.rl.kl_control import next_beta
from training.rl.losses import policy_loss, value_loss
from training.rl.players import Players, open_players
from training.rl.rollout import CachedEngine, Rollout, before_response, response_log_probs
from training.stages.artifact import finished, publish, write_model
from training.stages.context import ConfigError, Lineage, Machine, Progress, RunContext
from training.stages.machine import Autocast, sampling_threads, settle
from training.stages.state import TrainingState

STAGE = "ppo"
REPORTED = ("score", "kl", "eos_rate", "response_tokens")


@dataclass(frozen=True)
class PpoConfig:
    """data_path: JSON lines {"messages": [...]}. The reference is model_directory as it is.

    output_directory becomes a model directory; with `lora` policy, critic and reward model share the base weights.
    """

    model_directory: Path
    reward_model_directory: Path
    data_path: Path
    output_directory: Path
    lineage: Lineage
    updates: int = 100
    prompts_per_update: int = 32  # all workers together
    samples_per_prompt: int = 1
    minibatch_rows: int = 16  # responses an optimizer step, all workers together
    epochs_per_update: int = 2
    max_prompt_tokens: int = 256  # longer prompts are dropped and counted
    max_response_tokens: int = 64
    temperature: float = 1.0
    clip: float = 0.2
    value_clip: float = 0.2
    reward: RewardShape = field(default_factory=RewardShape)
    kl: KlConfig = field(default_factory=KlConfig)
    kl_ceiling_nats: float = 20.0  # per response; above: stop
    length_floor_fraction: float = 0.25  # of the first update's mean length; below: stop
    policy_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    critic_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    vocabulary_rows: int | None = None
    checkpoint_every_updates: int = 5
    seed: int = 0
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        if self.vocabulary_rows is not None and self.lora is None:
            raise ConfigError("vocabulary_rows: only with lora, full training would lose the other rows")
        if self.temperature <= 0:
            raise ConfigError(f"temperature: {self.temperature}, PPO samples at more than 0")
        if self.rows_per_update % self.minibatch_rows:
            raise ConfigError(
                f"minibatch_rows: {self.minibatch_rows} does not divide the {self.rows_per_update} rows of an update"
            )

    @property
    def rows_per_update(self) -> int:
        """Responses in one update, all workers together."""
        return self.prompts_per_update * self.samples_per_prompt


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompts, and what ends a response, in the ids that the model is trained with."""

    ids: list[list[int]]
    stop_ids: tuple[int, ...]
    dropped_too_long: int
    vocabulary: VocabularyMap | None = None


@dataclass(frozen=True)
class Outcome:
    """How training ended. exported_update: updates behind the weights that the policy now has."""

    exported_update: int
    stopped_because: str
    numbers: dict[str, float]


def run(config: PpoConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics, every update: score, reward, kl, beta, entropy, clip_fraction, approximate_kl, eos_rate,
    response_tokens, explained_variance, policy_loss, value_loss, sampler_mismatch, learning_rate.
    Report: updates, stopped_because ("" or the reason), exported_update, dropped_too_long; first_ and last_ of score, kl,
    eos_rate, response_tokens.
    """
    if done := finished(config.output_directory):
        return done
    autocast = settle(config.machine)
    prompts = read_data(config, load_chat(config.model_directory))
    players, reward = open_players(
        config.model_directory, config.reward_model_directory, config.lora, prompts.vocabulary, config.seed
    )
    outcome = train(players, prompts, score_by(reward), config, context, autocast)
    figures = {name: outcome.numbers[name] for name in sorted(outcome.numbers) if name.startswith(("first_", "last_"))}
    return publish(
        config,
        config.lineage,
        config.output_directory,
        context,
        lambda: write_model(players.policy, config.lora, config.model_directory, config.output_directory),
        kind="model",
        parents=(config.model_directory.name, config.reward_model_directory.name),
        seed=config.seed,
        report={
            "updates": config.updates,
            "exported_update": outcome.exported_update,
            "stopped_because": outcome.stopped_because,
            "dropped_too_long": prompts.dropped_too_long,
            **figures,
        },
    )


def train(
    players: Players, prompts: Prompts, score: Score, config: PpoConfig, context: RunContext, autocast: Autocast
) -> Outcome:
    """The algorithm. Changes policy and critic; ends after config.updates or at the first alarm."""
    ranks = context.ranks
    learner = Learner(players, config, autocast, ranks)
    judging = Judging(config.temperature, config.minibatch_rows, config.reward, ranks)
    numbers: dict[str, float] = {"step": 0, "beta": config.kl.initial}
    if checkpoint := context.checkpoints.latest():
        numbers = learner.state.read(checkpoint)
    else:
        context.checkpoints.save(0, lambda directory: learner.state.write(directory, numbers))

    for update in range(int(numbers["step"]), config.updates):
        rollout = sample(players, prompts, update, config, ranks)
        with autocast():
            experience = judge(players, score, rollout, judging, numbers["beta"])
        note_figures(numbers, experience.figures)
        if reason := alarm(numbers, config):
            healthy = context.checkpoints.latest(before=update)
            exported = int(learner.state.read(healthy)["step"]) if healthy else update
            return Outcome(exported, f"update {update}: {reason}", numbers)
        figures = learner.learn(experience, update)
        figures["beta"] = numbers["beta"]
        numbers["beta"] = next_beta(numbers["beta"], figures["kl"], config.rows_per_update, config.kl)
        numbers["step"] = update + 1
        if (update + 1) % config.checkpoint_every_updates == 0 or update + 1 == config.updates:
            context.checkpoints.save(update + 1, lambda directory: learner.state.write(directory, numbers))
        context.progress(Progress(STAGE, update + 1, config.updates, figures))
    return Outcome(config.updates, "", numbers)


def sample(players: Players, prompts: Prompts, update: int, config: PpoConfig, ranks: Ranks) -> Rollout:
    """This rank's responses of the update. Each prompt has its own seed, so ranks do not change what is sampled."""
    rows = rows_of_step(update, config.prompts_per_update, len(prompts.ids), config.seed)
    places = ranks.share(range(len(rows)))
    engine = CachedEngine(players.policy, prompts.stop_ids, version=f"update-{update}")
    with sampling_threads(config.machine):
        return engine.sample(
            [prompts.ids[rows[place]] for place in places],
            config.samples_per_prompt,
            config.max_response_tokens,
            config.temperature,
            [seed_of(config.seed, "rollout", update, place) for place in places],
        )


def note_figures(numbers: dict[str, float], figures: dict[str, float]) -> None:
    """Remember the first and the newest of what the report and the alarms need."""
    for name in REPORTED:
        numbers.setdefault(f"first_{name}", figures[name])
        numbers[f"last_{name}"] = figures[name]


def alarm(numbers: dict[str, float], config: PpoConfig) -> str:
    """Why training must stop before it learns from this rollout, or "". The reward alone would call each of these a success."""
    kl, length = numbers["last_kl"], numbers["last_response_tokens"]
    floor = config.length_floor_fraction * numbers["first_response_tokens"]
    if kl > config.kl_ceiling_nats:
        return f"KL to the reference {kl:.2f} nats, above the ceiling of {config.kl_ceiling_nats:g}"
    if length < floor:
        return f"responses collapsed to {length:.1f} tokens, below the floor of {floor:.1f}"
    return ""


class Learner:
    """Policy and critic with their optimizers: several shuffled epochs of minibatches over one experience."""

    def __init__(self, players: Players, config: PpoConfig, autocast: Autocast, ranks: Ranks) -> None:
        self._players, self._config, self._autocast, self._ranks = players, config, autocast, ranks
        policy, critic = players.policy.named_parameters(), players.critic.named_parameters()
        self._policy: list[nn.Parameter] = [parameter for _, parameter in policy]
        self._critic: list[nn.Parameter] = [parameter for _, parameter in critic]
        self._policy_optimizer = build_optimizer(policy, config.policy_optimizer)
        self._critic_optimizer = build_optimizer(critic, config.critic_optimizer)
        self.state = TrainingState(
            {"policy": self._policy, "critic": self._critic},
            {"policy": self._policy_optimizer, "critic": self._critic_optimizer},
        )

    def learn(self, experience: Experience, update: int) -> dict[str, float]:
        """All epochs of one update; the experience's figures with the losses' means added."""
        config, ranks = self._config, self._ranks
        rows = config.minibatch_rows // ranks.data_size
        count = experience.old_log_probs_BR.shape[0]
        sums = torch.zeros(5)
        for epoch in range(config.epochs_per_update):
            generator = torch.Generator().manual_seed(
                seed_of(config.seed, "minibatches", update, epoch, ranks.data_rank)
            )
            order = torch.randperm(count, generator=generator)
            for start in range(0, count, rows):
                sums += self._step(experience.rows(order[start : start + rows]), update)
        tokens, clipped, approximate_kl, policy, value = ranks.sum(sums).tolist()
        return experience.figures | {
            "clip_fraction": clipped / tokens,
            "approximate_kl": approximate_kl / tokens,
            "policy_loss": policy / tokens,
            "value_loss": value / tokens,
            "learning_rate": learning_rate_at(update, config.updates, config.policy_optimizer),
        }

    def _step(self, part: Experience, update: int) -> Tensor:
        """One minibatch; sums of tokens, clipped tokens, approximate KL, policy loss, value loss."""
        config, mask_BR = self._config, part.rollout.response_mask_BR
        mine = mask_BR.sum().float()
        tokens = int(self._ranks.sum(mine.clone()))
        with self._autocast():
            log_probs_BR, _ = response_log_probs(self._players.policy, part.rollout, config.temperature)
        policy = policy_loss(log_probs_BR, part.old_log_probs_BR, part.advantages_BR, mask_BR, config.clip, tokens)
        torch.autograd.backward(policy.loss)
        with self._autocast():
            states_BT = self._players.critic.everywhere(part.rollout.ids_BT, part.rollout.mask_BT)
        values_BR = before_response(states_BT, part.rollout)
        value = value_loss(values_BR, part.old_values_BR, part.returns_BR, mask_BR, config.value_clip, tokens)
        torch.autograd.backward(value)
        self._apply(update, f"update {update + 1}, policy loss {policy.loss:.4g}, value loss {value:.4g}")
        losses = (policy.loss.detach() * tokens, value.detach() * tokens)
        return torch.stack((mine, policy.clipped_tokens.float(), policy.approximate_kl_sum, *losses))

    def _apply(self, update: int, at: str) -> None:
        config = self._config
        for optimizer, parameters, settings in (
            (self._policy_optimizer, self._policy, config.policy_optimizer),
            (self._critic_optimizer, self._critic, config.critic_optimizer),
        ):
            rate = learning_rate_at(update, config.updates, settings)
            apply_gradients(optimizer, parameters, rate, settings.gradient_clip, self._ranks, at)


def read_data(config: PpoConfig, chat: Chat) -> Prompts:
    """Tokenise, drop what is too long, and trim the vocabulary to what prompts and responses need."""
    rows: Sequence[list[int]] = [chat.prompt_ids(row.messages) for row in read_prompts(config.data_path)]
    ids = [row for row in rows if len(row) <= config.max_prompt_tokens]
    if not ids:
        raise ConfigError(f"max_prompt_tokens: {config.max_prompt_tokens} fits none of {len(rows)} prompts")
    dropped = len(rows) - len(ids)
    if config.vocabulary_rows is None:
        return Prompts(ids, chat.stop_ids, dropped)
    used = {*chat.stop_ids, *(i for row in ids for i in row)}
    vocabulary = choose_rows(used, read_config(config.model_directory).vocab_size, config.vocabulary_rows)
    narrowed = [vocabulary.narrow(row) for row in ids]
    return Prompts(narrowed, tuple(vocabulary.narrow(chat.stop_ids)), dropped, vocabulary)


def score_by(reward: RewardModel) -> Score:
    """The reward model's normalised score of prompt and response together."""

    def score(rollout: Rollout) -> Tensor:
        return reward.score(rollout.ids_BT, rollout.mask_BT)

    return score
