"""DPO: a policy learns from preference pairs without a reward model; its own log-ratio to the reference is the reward.

Read `run` and `train` from top to bottom. Held-out accuracy stands beside the ceiling that label noise sets, as the reward model's does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from training.data.chat import Chat, load_chat
from training.data.examples import PairExample, read_pairs
from training.data.order import held_out_keys, rows_of_step, steps_for
from training.data.tensors import TokenisedExample, response_batch
from training.manifest import Manifest
from training.model.checkpoint import read_config
from training.model.lora import LoraConfig
from training.model.vocabulary import VocabularyMap, choose_rows
from training.optim.adam import OptimizerConfig, build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.ranks import Ranks
from training.optim.schedule import learning_rate_at
from training.parallelism import Parallelism, assemble, distribute_views, gathered, lay_out
from training.rl.label_noise import estimate_label_noise, noise_ceiling
from training.rl.losses import dpo
from training.rl.reference import PolicyAndReference, Watch, WatchConfig, open_policy_and_reference
from training.stages.artifact import finished, publish, write_model
from training.stages.context import ConfigError, Lineage, Machine, Progress, RunContext
from training.stages.machine import Autocast, sampling_threads, settle
from training.stages.state import TrainingState

STAGE = "dpo"


@dataclass(frozen=True)
class DpoConfig:
    """data_path: JSON lines {"messages", "chosen", "rejected", "margin": float = 0, "prompt_id": str}, as the reward model's.

    output_directory becomes a model directory; with `lora` the adapter is merged into it and kept apart under adapter/.
    """

    model_directory: Path  # also the reference
    data_path: Path
    output_directory: Path
    lineage: Lineage
    beta: float = 0.1  # of the penalty for leaving the reference: smaller goes further
    label_smoothing: float = 0.0  # share of labels thought to be flipped
    margin_weight: float = 0.0  # nats of reward that a pair's margin of 1 asks for
    epochs: int = 1
    batch_pairs: int = 16  # pairs a step, all workers together
    microbatch_pairs: int = 4
    max_tokens: int = 512  # prompt + response; pairs with a longer one are dropped and counted
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    vocabulary_rows: int | None = None
    held_out_fraction: float = 0.1  # of the prompts, never of the pairs
    label_noise: float | None = None  # share of flipped labels where known; None: estimated from repeated pairs
    watch: WatchConfig = field(default_factory=WatchConfig)
    checkpoint_every_steps: int = 50
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    parallelism: Parallelism = field(default_factory=Parallelism)  # of the policy and its reference

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ConfigError(f"beta: {self.beta} is not above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ConfigError(f"label_smoothing: {self.label_smoothing} is not in [0, 0.5)")
        if self.margin_weight < 0:
            raise ConfigError(f"margin_weight: {self.margin_weight} is below 0")
        if self.label_noise is not None and not 0 <= self.label_noise < 0.5:
            raise ConfigError(f"label_noise: {self.label_noise} is not in [0, 0.5)")
        if self.vocabulary_rows is not None and self.lora is None:
            raise ConfigError("vocabulary_rows: only with lora, full training would lose the other rows")


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, tokenised."""

    chosen: TokenisedExample
    rejected: TokenisedExample
    margin: float = 0.0

    @property
    def tokens(self) -> int:
        """Of the longer one, prompt included."""
        return max(self.chosen.tokens, self.rejected.tokens)


@dataclass(frozen=True)
class Pairs:
    """The data of a run, split once, by prompt, in the ids that the model is trained with."""

    train: list[Pair]
    held_out: list[Pair]
    stop_ids: tuple[int, ...]
    dropped_too_long: int = 0
    label_noise: float | None = None
    vocabulary: VocabularyMap | None = None


def run(config: DpoConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, accuracy and margin (of the batch, in nats of reward), learning_rate, gradient_norm; at checkpoints
    also held_out_accuracy, held_out_margin, response_tokens and kl (of samples on held-out prompts).
    Report: train_pairs, held_out_pairs, dropped_too_long, label_noise, label_noise_ceiling (None where nothing says how noisy
    the labels are), steps, exported_step, stopped_because ("" or the reason), held_out_accuracy, held_out_margin,
    response_tokens, response_tokens_before, kl.
    """
    if done := finished(config.output_directory):
        return done
    autocast = settle(config.machine)
    context = lay_out(config.parallelism, context, batch_pairs=config.batch_pairs)
    pairs = read_data(config, load_chat(config.model_directory))
    models = open_policy_and_reference(config.model_directory, config.lora, pairs.vocabulary, config.seed)
    distribute_views((models.policy, models.reference), context.ranks)
    numbers, stopped_because = train(models, pairs, config, context, autocast)
    assemble(models.policy.decoder, context.ranks)
    return publish(
        config,
        config.lineage,
        config.output_directory,
        context,
        lambda: write_model(models.policy, config.lora, config.model_directory, config.output_directory),
        kind="model",
        parents=(config.model_directory.name,),
        seed=config.seed,
        report={
            "train_pairs": len(pairs.train),
            "held_out_pairs": len(pairs.held_out),
            "dropped_too_long": pairs.dropped_too_long,
            "label_noise": pairs.label_noise,
            "label_noise_ceiling": None if pairs.label_noise is None else noise_ceiling(pairs.label_noise),
            "stopped_because": stopped_because,
            "exported_step": int(numbers.pop("step")),
            **numbers,
        },
    )


def train(
    models: PolicyAndReference, pairs: Pairs, config: DpoConfig, context: RunContext, autocast: Autocast
) -> tuple[dict[str, float], str]:
    """The algorithm. Changes the policy; ends after all steps, or when responses collapse: then with the last healthy weights.

    Returns:
        figures of the policy as it is now, `step` among them; and why training stopped before its end, or "".
    """
    named = models.policy.named_parameters()
    parameters = [parameter for _, parameter in named]
    optimizer = build_optimizer(named, config.optimizer)
    state = TrainingState({"model": named}, {"model": optimizer}, context.ranks)
    total_steps = steps_for(config.epochs, config.batch_pairs, len(pairs.train))
    prompts = list(dict.fromkeys(pair.chosen.prompt for pair in pairs.held_out))[: config.watch.prompts]
    watch = Watch(config.watch, prompts, pairs.stop_ids, config.seed)

    if checkpoint := context.checkpoints.latest():
        numbers = state.read(checkpoint)
    else:
        numbers = {"step": 0, **examine(models, pairs, watch, config, autocast, context.ranks)}
        numbers["response_tokens_before"] = numbers["response_tokens"]
        context.checkpoints.save(0, lambda directory: state.write(directory, numbers))

    for step in range(int(numbers["step"]), total_steps):
        rows = rows_of_step(step, config.batch_pairs, len(pairs.train), config.seed)
        mine = [pairs.train[row] for row in context.ranks.share(rows)]
        metrics = accumulate(models, mine, config, autocast, context.ranks)
        rate = learning_rate_at(step, total_steps, config.optimizer)
        at = f"step {step + 1}, loss {metrics['loss']:.4g}"
        norm = apply_gradients(optimizer, parameters, rate, config.optimizer.gradient_clip, context.ranks, at)
        metrics |= {"learning_rate": rate, "gradient_norm": norm}
        numbers["step"] = step + 1
        if (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == total_steps:
            figures = examine(models, pairs, watch, config, autocast, context.ranks)
            metrics |= figures
            if reason := watch.alarm(numbers["response_tokens_before"], figures):
                context.progress(Progress(STAGE, step + 1, total_steps, metrics))
                healthy = context.checkpoints.latest()
                return (state.read(healthy) if healthy else numbers), f"step {step + 1}: {reason}"
            numbers.update(figures)
            context.checkpoints.save(step + 1, lambda directory: state.write(directory, numbers))
        context.progress(Progress(STAGE, step + 1, total_steps, metrics))
    return numbers, ""


def accumulate(
    models: PolicyAndReference, pairs: Sequence[Pair], config: DpoConfig, autocast: Autocast, ranks: Ranks
) -> dict[str, float]:
    """Add the gradient of these pairs' loss; return figures of all ranks together."""
    sums = torch.zeros(3)  # loss, right, margin
    for part in parts_of(pairs, config):
        with autocast():
            chosen_B, rejected_B = log_ratios(models, part)
        margin_B = config.margin_weight * torch.tensor([pair.margin for pair in part])
        loss = dpo(chosen_B, rejected_B, margin_B, config.beta, config.label_smoothing, config.batch_pairs)
        torch.autograd.backward(loss)
        gap_B = config.beta * (chosen_B - rejected_B).detach()
        sums += torch.stack((loss.detach(), (gap_B > 0).sum() / config.batch_pairs, gap_B.sum() / config.batch_pairs))
    loss_value, right, margin = ranks.sum(sums).tolist()
    return {"loss": loss_value, "accuracy": right, "margin": margin}


def log_ratios(models: PolicyAndReference, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Log-ratios to the reference of chosen and rejected, [B] each, from one forward over both."""
    batch = response_batch([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)])
    chosen_B, rejected_B = models.log_ratios(batch).chunk(2)
    return chosen_B, rejected_B


def parts_of(pairs: Sequence[Pair], config: DpoConfig) -> Iterator[Sequence[Pair]]:
    """Microbatches, similar lengths together so that little is padding."""
    ordered = sorted(pairs, key=lambda pair: pair.tokens)
    for start in range(0, len(ordered), config.microbatch_pairs):
        yield ordered[start : start + config.microbatch_pairs]


@torch.no_grad()
def examine(
    models: PolicyAndReference, pairs: Pairs, watch: Watch, config: DpoConfig, autocast: Autocast, ranks: Ranks
) -> dict[str, float]:
    """Reward accuracy (a tie is half right) and margin on held-out pairs, and what the watch sees."""
    gaps = []
    for part in parts_of(pairs.held_out, config):
        with autocast():
            chosen_B, rejected_B = log_ratios(models, part)
        gaps.append(config.beta * (chosen_B - rejected_B))
    gap = torch.cat(gaps)
    with sampling_threads(config.machine), gathered(models.policy.decoder):
        seen = watch.look(models, ranks)
    accuracy = ((gap > 0).float() + 0.5 * (gap == 0).float()).mean()
    return {"held_out_accuracy": float(accuracy), "held_out_margin": float(gap.mean()), **seen}


def read_data(config: DpoConfig, chat: Chat) -> Pairs:
    """Tokenise, drop what is too long, hold out a share of the prompts, and trim the vocabulary to what both need."""
    rows = read_pairs(config.data_path)
    noise = config.label_noise if config.label_noise is not None else estimate_label_noise(rows)
    fitting = [(row, pair) for row in rows if (pair := tokenise(row, chat)).tokens <= config.max_tokens]
    held = held_out_keys((row.prompt_id for row, _ in fitting), config.held_out_fraction, config.seed)
    train = [pair for row, pair in fitting if row.prompt_id not in held]
    held_out = [pair for row, pair in fitting if row.prompt_id in held]
    if not train or not held_out:
        raise ConfigError(f"held_out_fraction: {len(train)} pairs to train and {len(held_out)} held out, both need one")
    pairs = Pairs(train, held_out, chat.stop_ids, len(rows) - len(fitting), noise)
    return pairs if config.vocabulary_rows is None else trimmed(pairs, config, config.vocabulary_rows)


def tokenise(row: PairExample, chat: Chat) -> Pair:
    """Both conversations as ids, each to its end token."""
    prompt = tuple(chat.prompt_ids(row.messages))
    chosen, rejected = (TokenisedExample(prompt, tuple(chat.response_ids(text))) for text in (row.chosen, row.rejected))
    return Pair(chosen, rejected, row.margin)


def trimmed(pairs: Pairs, config: DpoConfig, vocabulary_rows: int) -> Pairs:
    """The same pairs in dense ids."""
    sides = [side for pair in (*pairs.train, *pairs.held_out) for side in (pair.chosen, pair.rejected)]
    used = {*pairs.stop_ids, *(i for side in sides for i in (*side.prompt, *side.response))}
    vocabulary = choose_rows(used, read_config(config.model_directory).vocab_size, vocabulary_rows)
    train, held_out = (
        [Pair(pair.chosen.narrowed(vocabulary), pair.rejected.narrowed(vocabulary), pair.margin) for pair in part]
        for part in (pairs.train, pairs.held_out)
    )
    stop_ids = tuple(vocabulary.narrow(pairs.stop_ids))
    return replace(pairs, train=train, held_out=held_out, stop_ids=stop_ids, vocabulary=vocabulary)
