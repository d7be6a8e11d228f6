"""KTO: a policy learns from single thumbs, up or down, without pairs and without a reward model.

Thumbs are seldom balanced, and with equal weights the many thumbs down make every response collapse to its end token
(reference/training.md, section 6): weights are computed from the counts of the data, w_up n_up = w_down n_down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.chat import Chat, load_chat
from training.data.examples import ThumbExample, read_thumbs
from training.data.order import held_out_keys, rows_of_step, steps_for
from training.data.served import Served
from training.data.tensors import TokenisedExample, response_batch
from training.manifest import Manifest
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, read_config
from training.model.lora import LoraConfig
from training.model.vocabulary import VocabularyMap, choose_rows
from training.optim.adam import OptimizerConfig, build_optimizer
from training.optim.gradients import apply_gradients
from training.optim.ranks import Ranks
from training.optim.schedule import learning_rate_at
from training.parallelism import Parallelism, assemble, distribute, distribute_views, gathered, lay_out
from training.rl.losses import kto
from training.rl.reference import PolicyAndReference, Watch, WatchConfig, open_policy_and_reference
from training.rl.served import Answer, OffPolicyConfig, hold_against, read_answer
from training.stages.artifact import finished, publish, write_model
from training.stages.context import ConfigError, Lineage, Machine, Progress, RunContext
from training.stages.machine import Autocast, sampling_threads, settle
from training.stages.state import TrainingState

STAGE = "kto"
WEIGHTS = ("balanced", "equal")


@dataclass(frozen=True)
class KtoConfig:
    """data_path: JSON lines {"messages", "response", "thumb": "up" or "down", "prompt_id"}, and "served" where the sample is known:
    then its ids are learned from, not the text's.

    output_directory becomes a model directory; with `lora` the adapter is merged into it and kept apart under adapter/.
    """

    model_directory: Path  # also the reference
    data_path: Path
    output_directory: Path
    lineage: Lineage
    beta: float = 0.1  # of the penalty for leaving the reference: smaller goes further
    weights: str = "balanced"  # from the counts of the training part; or equal, as a control
    epochs: int = 1
    batch_rows: int = 16  # thumbs a step, all workers together; z0 is a mean over so many
    microbatch_rows: int = 8
    max_tokens: int = 512  # prompt + response; longer examples are dropped and counted
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    lora: LoraConfig | None = None
    vocabulary_rows: int | None = None
    held_out_fraction: float = 0.1  # of the prompts
    watch: WatchConfig = field(default_factory=WatchConfig)
    off_policy: OffPolicyConfig = field(default_factory=OffPolicyConfig)
    checkpoint_every_steps: int = 50
    seed: int = 0
    machine: Machine = field(default_factory=Machine)
    parallelism: Parallelism = field(default_factory=Parallelism)  # of the policy and its reference

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ConfigError(f"beta: {self.beta} is not above 0")
        if self.weights not in WEIGHTS:
            raise ConfigError(f"weights: {self.weights!r} is not one of {', '.join(WEIGHTS)}")
        if self.batch_rows < 2:
            raise ConfigError(f"batch_rows: {self.batch_rows}, mismatched responses need at least 2")
        if self.vocabulary_rows is not None and self.lora is None:
            raise ConfigError("vocabulary_rows: only with lora, full training would lose the other rows")


@dataclass(frozen=True)
class Thumb:
    """A tokenised response, and whether it is liked; `served` and `unfit` as in rl/served.py."""

    example: TokenisedExample
    up: bool
    served: Served | None = None
    unfit: str = ""


@dataclass(frozen=True)
class Thumbs:
    """The data of a run, split once, by prompt, in the ids that the model is trained with."""

    train: list[Thumb]
    held_out: list[Thumb]
    stop_ids: tuple[int, ...]
    dropped_too_long: int = 0
    vocabulary: VocabularyMap | None = None

    @property
    def ups(self) -> int:
        """Thumbs up to train on."""
        return sum(thumb.up for thumb in self.train)


def run(config: KtoConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, baseline (z0, nats), up_reward and down_reward (mean of beta r in the batch), importance (mean, with a cap),
    learning_rate, gradient_norm; at checkpoints also held_out_accuracy, response_tokens and kl (of samples on held-out prompts).
    Report: train_thumbs, train_thumbs_up, held_out_thumbs, dropped_too_long, up_weight, down_weight, exported_step,
    stopped_because ("" or the reason), held_out_accuracy, response_tokens, response_tokens_before, kl; answers_unsampled,
    answers_unfit, and off_policy by version (training/rl/served.py).

    Raises:
        OffPolicyError: there are answers that may not be learned from.
    """
    if done := finished(config.output_directory):
        return done
    autocast = settle(config.machine)
    context = lay_out(config.parallelism, context, batch_rows=config.batch_rows)
    data = read_data(config, load_chat(config.model_directory))
    thumbs, off_policy = corrected(data, config, context.ranks, autocast)
    if config.vocabulary_rows is not None:
        thumbs = trimmed(thumbs, config, config.vocabulary_rows)
    models = open_policy_and_reference(config.model_directory, config.lora, thumbs.vocabulary, config.seed)
    distribute_views((models.policy, models.reference), context.ranks)
    numbers, stopped_because = train(models, thumbs, config, context, autocast)
    assemble(models.policy.decoder, context.ranks)
    up_weight, down_weight = weights_of(thumbs, config)
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
            "train_thumbs": len(thumbs.train),
            "train_thumbs_up": thumbs.ups,
            "held_out_thumbs": len(thumbs.held_out),
            "dropped_too_long": thumbs.dropped_too_long,
            "up_weight": up_weight,
            "down_weight": down_weight,
            "stopped_because": stopped_because,
            "exported_step": int(numbers.pop("step")),
            **numbers,
            **off_policy,
        },
    )


def train(
    models: PolicyAndReference, thumbs: Thumbs, config: KtoConfig, context: RunContext, autocast: Autocast
) -> tuple[dict[str, float], str]:
    """The algorithm. Changes the policy; ends after all steps, or when responses collapse: then with the last healthy weights.

    Returns:
        figures of the policy as it is now, `step` among them; and why training stopped before its end, or "".
    """
    named = models.policy.named_parameters()
    parameters = [parameter for _, parameter in named]
    optimizer = build_optimizer(named, config.optimizer)
    state = TrainingState({"model": named}, {"model": optimizer}, context.ranks)
    total_steps = steps_for(config.epochs, config.batch_rows, len(thumbs.train))
    weights = weights_of(thumbs, config)
    prompts = list(dict.fromkeys(thumb.example.prompt for thumb in thumbs.held_out))[: config.watch.prompts]
    watch = Watch(config.watch, prompts, thumbs.stop_ids, config.seed)

    if checkpoint := context.checkpoints.latest():
        numbers = state.read(checkpoint)
    else:
        numbers = {"step": 0, **examine(models, thumbs, watch, config, autocast, context.ranks)}
        numbers["response_tokens_before"] = numbers["response_tokens"]
        context.checkpoints.save(0, lambda directory: state.write(directory, numbers))

    for step in range(int(numbers["step"]), total_steps):
        batch = [thumbs.train[row] for row in rows_of_step(step, config.batch_rows, len(thumbs.train), config.seed)]
        z0 = baseline(models, batch, config, autocast, context.ranks)
        metrics = accumulate(models, batch, z0, weights, config, autocast, context.ranks)
        rate = learning_rate_at(step, total_steps, config.optimizer)
        at = f"step {step + 1}, loss {metrics['loss']:.4g}"
        norm = apply_gradients(optimizer, parameters, rate, config.optimizer.gradient_clip, context.ranks, at)
        metrics |= {"learning_rate": rate, "gradient_norm": norm}
        numbers["step"] = step + 1
        if (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == total_steps:
            figures = examine(models, thumbs, watch, config, autocast, context.ranks)
            metrics |= figures
            if reason := watch.alarm(numbers["response_tokens_before"], figures):
                context.progress(Progress(STAGE, step + 1, total_steps, metrics))
                healthy = context.checkpoints.latest()
                return (state.read(healthy) if healthy else numbers), f"step {step + 1}: {reason}"
            numbers.update(figures)
            context.checkpoints.save(step + 1, lambda directory: state.write(directory, numbers))
        context.progress(Progress(STAGE, step + 1, total_steps, metrics))
    return numbers, ""


def weights_of(thumbs: Thumbs, config: KtoConfig) -> tuple[float, float]:
    """Of a thumb up and of a thumb down: the rarer kind counts for more, so that both kinds weigh the same in sum."""
    ups, downs = thumbs.ups, len(thumbs.train) - thumbs.ups
    return (1.0, 1.0) if config.weights == "equal" else (max(1.0, downs / ups), max(1.0, ups / downs))


@torch.no_grad()
def baseline(
    models: PolicyAndReference, batch: Sequence[Thumb], config: KtoConfig, autocast: Autocast, ranks: Ranks
) -> float:
    """z0 = max(0, mean log-ratio of the batch's responses after each other's prompts): over all ranks, without a gradient."""
    mismatched = [
        TokenisedExample(one.example.prompt, other.example.response[: config.max_tokens - len(one.example.prompt)])
        for one, other in zip(batch, [batch[-1], *batch[:-1]], strict=True)
    ]
    total = torch.zeros(())
    for start in range(0, len(mine := ranks.share(mismatched)), config.microbatch_rows):
        with autocast():
            total += models.log_ratios(response_batch(mine[start : start + config.microbatch_rows])).sum()
    return max(0.0, float(ranks.sum(total)) / len(batch))


def accumulate(
    models: PolicyAndReference,
    batch: Sequence[Thumb],
    z0: float,
    weights: tuple[float, float],
    config: KtoConfig,
    autocast: Autocast,
    ranks: Ranks,
) -> dict[str, float]:
    """Add the gradient of this rank's share of the batch; return figures of all ranks together."""
    sums = torch.zeros(3)  # loss, rewards of thumbs up and of thumbs down
    for part in parts_of(ranks.share(batch), config):
        with autocast():
            ratios_B = log_ratios(models, part)
        up_B = torch.tensor([thumb.up for thumb in part])
        importance_B = torch.tensor([thumb.example.weight for thumb in part])
        loss = kto(ratios_B, up_B, z0, config.beta, weights, len(batch), importance_B)
        torch.autograd.backward(loss)
        rewards_B = config.beta * ratios_B.detach()
        sums += torch.stack((loss.detach(), rewards_B[up_B].sum(), rewards_B[~up_B].sum()))
    loss_value, up_rewards, down_rewards = ranks.sum(sums).tolist()
    ups = sum(thumb.up for thumb in batch)
    figures = {"loss": loss_value, "baseline": z0}
    if config.off_policy.importance_cap is not None:
        figures["importance"] = sum(thumb.example.weight for thumb in batch) / len(batch)
    if ups:
        figures["up_reward"] = up_rewards / ups
    if ups < len(batch):
        figures["down_reward"] = down_rewards / (len(batch) - ups)
    return figures


def log_ratios(models: PolicyAndReference, thumbs: Sequence[Thumb]) -> Tensor:
    """Log-ratios to the reference, [B]."""
    return models.log_ratios(response_batch([thumb.example for thumb in thumbs]))


def parts_of(thumbs: Sequence[Thumb], config: KtoConfig) -> Iterator[Sequence[Thumb]]:
    """Microbatches, similar lengths together so that little is padding."""
    ordered = sorted(thumbs, key=lambda thumb: thumb.example.tokens)
    for start in range(0, len(ordered), config.microbatch_rows):
        yield ordered[start : start + config.microbatch_rows]


@torch.no_grad()
def examine(
    models: PolicyAndReference, thumbs: Thumbs, watch: Watch, config: KtoConfig, autocast: Autocast, ranks: Ranks
) -> dict[str, float]:
    """Accuracy on held-out thumbs: how often a liked response's log-ratio is above a disliked one's (a tie is half right, which
    neither z0 nor the share of thumbs up can move), and what the watch sees."""
    ratios: dict[bool, list[Tensor]] = {True: [], False: []}
    for part in parts_of(thumbs.held_out, config):
        with autocast():
            ratios_B = log_ratios(models, part)
        for thumb, ratio in zip(part, ratios_B, strict=True):
            ratios[thumb.up].append(ratio)
    gap_UD = torch.stack(ratios[True])[:, None] - torch.stack(ratios[False])
    with sampling_threads(config.machine), gathered(models.policy.decoder):
        seen = watch.look(models, ranks)
    return {"held_out_accuracy": float(((gap_UD > 0).float() + 0.5 * (gap_UD == 0).float()).mean()), **seen}


def read_data(config: KtoConfig, chat: Chat) -> Thumbs:
    """Tokenise, drop what is too long, and hold out a share of the prompts."""
    rows = read_thumbs(config.data_path)
    fitting = [(row, thumb) for row in rows if (thumb := tokenise(row, chat)).example.tokens <= config.max_tokens]
    held = held_out_keys((row.prompt_id for row, _ in fitting), config.held_out_fraction, config.seed)
    train = [thumb for row, thumb in fitting if row.prompt_id not in held]
    held_out = [thumb for row, thumb in fitting if row.prompt_id in held]
    for name, part in (("to train", train), ("held out", held_out)):
        ups = sum(thumb.up for thumb in part)
        if ups in (0, len(part)):
            raise ConfigError(
                f"held_out_fraction: {ups} thumbs up and {len(part) - ups} down {name}, one of each needed"
            )
    return Thumbs(train, held_out, chat.stop_ids, len(rows) - len(fitting))


def tokenise(row: ThumbExample, chat: Chat) -> Thumb:
    """Prompt and response as ids, to the end token."""
    answer = read_answer(row.served, row.messages, row.response, chat)
    return Thumb(answer.example, row.up, answer.served, answer.unfit)


def corrected(thumbs: Thumbs, config: KtoConfig, ranks: Ranks, autocast: Autocast) -> tuple[Thumbs, dict[str, Any]]:
    """The thumbs, each weighing what its answer's sample says, and figures for the report. Raises: OffPolicyError."""

    def starting() -> Backbone:
        decoder = load_decoder(config.model_directory).requires_grad_(False)
        distribute(decoder, ranks)  # every worker reads all answers, so they make equally many forwards
        return Backbone(decoder)

    both = [*thumbs.train, *thumbs.held_out]
    answers, figures = hold_against(
        starting,
        config.model_directory.name,
        [Answer(thumb.example, thumb.served, thumb.unfit) for thumb in both],
        config.off_policy,
        config.microbatch_rows,
        autocast,
    )
    weighed = [replace(thumb, example=answer.example) for thumb, answer in zip(both, answers, strict=True)]
    first = len(thumbs.train)
    return replace(thumbs, train=weighed[:first], held_out=weighed[first:]), figures


def trimmed(thumbs: Thumbs, config: KtoConfig, vocabulary_rows: int) -> Thumbs:
    """The same thumbs in dense ids."""
    examples = [thumb.example for thumb in (*thumbs.train, *thumbs.held_out)]
    used = {*thumbs.stop_ids, *(i for example in examples for i in (*example.prompt, *example.response))}
    vocabulary = choose_rows(used, read_config(config.model_directory).vocab_size, vocabulary_rows)
    train, held_out = (
        [replace(thumb, example=thumb.example.narrowed(vocabulary)) for thumb in part]
        for part in (thumbs.train, thumbs.held_out)
    )
    stop_ids = tuple(vocabulary.narrow(thumbs.stop_ids))
    return replace(thumbs, train=train, held_out=held_out, stop_ids=stop_ids, vocabulary=vocabulary)
