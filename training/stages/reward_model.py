"""Reward model: a decoder with a scalar head, trained on pairs (Bradley-Terry or margin ranking).

The result is accuracy on held-out prompts, reported with its ceiling due to label noise: 0.74 is
good with a ceiling of 0.77, and poor with a ceiling of 1.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from training.artifacts.manifest import Manifest, finished_manifest
from training.data.chat import Chat, load_chat
from training.data.context import fit_context
from training.data.examples import PairExample, read_pairs
from training.data.seeds import rows_of_step, seed_of, split_by_key, steps_for
from training.data.tensors import pad
from training.errors import ConfigError
from training.figures import Z_95, clustered_mean, share_bounds
from training.losses.preferences import bradley_terry, centring, margin_ranking
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import trainable_backbone
from training.model.checkpoint import load_decoder, require_positions
from training.model.reward import RewardModel, ScalarHead, ScalarModel, save_reward_model
from training.model.vocabulary import VocabularyMap, choose_rows, trim_vocabulary
from training.optim.learner import Learner
from training.parallelism.layout import arrange_context, assemble, distribute
from training.rl.label_noise import estimate_label_noise, noise_ceiling
from training.runtime.context import Progress, RunContext
from training.runtime.machine import Autocast, configure_device
from training.runtime.ranks import Ranks
from training.runtime.training_state import TrainingState
from training.stages.artifact import publish
from training.stages.config import REWARD_LOSSES, RewardModelConfig

STAGE = "reward_model"
LOSSES = dict(zip(REWARD_LOSSES, (bradley_terry, margin_ranking), strict=True))


@dataclass(frozen=True)
class Pair:
    """A tokenised pair: prompt and chosen response, prompt and rejected response."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    margin: float
    tie: bool = False
    weight: float = 1.0


@dataclass(frozen=True)
class Pairs:
    """Data of a run, split once by prompt.

    `held_out_prompt_ids` has the prompt_id of each held-out pair.
    """

    train: list[Pair]
    held_out: list[Pair]
    held_out_prompt_ids: tuple[str, ...]
    dropped_too_long: int
    dropped_equal: int
    contexts_shortened: int
    label_noise: float | None

    @property
    def held_out_prompts(self) -> int:
        """Number of distinct held-out prompts."""
        return len(set(self.held_out_prompt_ids))

    @property
    def decided_prompt_ids(self) -> list[str]:
        """The prompt ids of the held-out pairs without ties."""
        return [
            key
            for key, pair in zip(self.held_out_prompt_ids, self.held_out, strict=True)
            if not pair.tie
        ]


def run(config: RewardModelConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "reward_model").

    Progress metrics: loss, accuracy (of the batch), margin, held_out_accuracy (at checkpoints),
    gradient_norm, learning_rate.

    Report: train_pairs and held_out_pairs (with train_ties and held_out_ties), held_out_prompts,
    dropped_too_long, dropped_equal (pairs of two equal texts), contexts_shortened,
    held_out_accuracy, held_out_accuracy_low and _high, label_noise and label_noise_ceiling (None if
    unknown), score_mean, score_std, steps. Accuracy, margin and ceiling exclude ties.
    """
    if done := finished_manifest(config.output_directory):
        return done
    autocast = configure_device(config.machine)
    context = arrange_context(config.parallelism, context, autocast, batch_pairs=config.batch_pairs)
    pairs = read_data(config, load_chat(config.model_directory))
    scalar, pairs = open_model(config, pairs)
    if config.checkpoint_activations:
        checkpoint_activations(scalar.backbone.decoder)
    distribute(scalar.backbone.decoder, context.ranks)
    total_steps = steps_for(config.epochs, config.batch_pairs, len(pairs.train))
    learner = Learner(scalar.named_parameters(), config.optimizer, total_steps, context.ranks)
    state = TrainingState({"model": learner.named}, {"model": learner.optimizer}, context.ranks)

    checkpoint = context.checkpoints.latest()
    numbers = state.read(checkpoint) if checkpoint else {"step": 0}
    write_state = partial(state.write, numbers=numbers)
    for step in range(int(numbers["step"]), total_steps):
        rows = rows_of_step(step, config.batch_pairs, len(pairs.train), config.seed)
        mine = [pairs.train[row] for row in context.ranks.share(rows)]
        metrics = accumulate(scalar, mine, config, autocast, context.ranks)
        metrics |= learner.step(step, f"step {step + 1}, loss {metrics['loss']:.4g}")
        numbers["step"] = step + 1
        due = (step + 1) % config.checkpoint_every_steps == 0 or step + 1 == total_steps
        if due:
            scores = score_all(scalar, pairs.held_out, config, autocast)
            metrics["held_out_accuracy"] = float(correctness(*scores, pairs.held_out).mean())
            context.checkpoints.save(step + 1, write_state)
        context.progress(Progress(STAGE, step + 1, total_steps, metrics))
        context.stop_if_requested(STAGE, step + 1, write_state, saved=due)

    chosen, rejected = score_all(scalar, pairs.held_out, config, autocast)
    both = torch.cat((chosen, rejected))
    assemble(scalar.backbone.decoder, context.ranks)
    reward = RewardModel(scalar, float(both.mean()), max(float(both.std(correction=0)), 1e-3))
    return publish(
        config,
        context,
        lambda: save_reward_model(
            reward, config.lora, config.model_directory, config.output_directory
        ),
        kind="reward_model",
        parents=(config.model_directory.name,),
        report=report(pairs, correctness(chosen, rejected, pairs.held_out), reward, total_steps),
    )


def report(
    pairs: Pairs, right_N: Tensor, reward: RewardModel, steps: int
) -> dict[str, float | None]:
    """Return the figures that the gate reads.

    right_N: correctness of the held-out pairs without ties; pairs of one prompt are not
    independent.
    """
    share = clustered_mean(right_N.tolist(), pairs.decided_prompt_ids)
    low, high = share_bounds(share, Z_95)
    return {
        "train_pairs": len(pairs.train),
        "train_ties": sum(pair.tie for pair in pairs.train),
        "held_out_pairs": len(pairs.held_out),
        "held_out_ties": len(pairs.held_out) - len(right_N),
        "held_out_prompts": pairs.held_out_prompts,
        "dropped_too_long": pairs.dropped_too_long,
        "dropped_equal": pairs.dropped_equal,
        "contexts_shortened": pairs.contexts_shortened,
        "held_out_accuracy": share.value,
        "held_out_accuracy_low": low,
        "held_out_accuracy_high": high,
        "label_noise": pairs.label_noise,
        "label_noise_ceiling": None
        if pairs.label_noise is None
        else noise_ceiling(pairs.label_noise),
        "score_mean": reward.mean,
        "score_std": reward.std,
        "steps": steps,
    }


def read_data(config: RewardModelConfig, chat: Chat) -> Pairs:
    """Tokenise, drop pairs that are too long or of equal texts, and hold out a share of the
    prompts.

    The label noise is estimated unless configured.
    """
    require_positions(config.model_directory, max_tokens=config.max_tokens)
    rows = read_pairs(config.data_path, config.allow_extra_fields)
    noise = config.label_noise if config.label_noise is not None else estimate_label_noise(rows)
    if not any(row.is_decided for row in rows):
        raise ConfigError(
            f"data_path: none of {len(rows)} pairs has a preferred response",
            field="data_path",
            reason="EMPTY",
        )
    different = [row for row in rows if not row.is_identical]
    fitting: list[tuple[str, Pair]] = []
    shortened = 0
    for row in different:
        if found := tokenise(row, chat, config.max_tokens):
            fitting.append((row.prompt_id, found[0]))
            shortened += found[1] > 0
    train, held_out = split_by_key(
        [(key, (key, pair)) for key, pair in fitting],
        config.held_out_fraction,
        config.seed,
        {"a preferred response": lambda row: not row[1].tie},
    )
    return Pairs(
        [pair for _, pair in train],
        [pair for _, pair in held_out],
        tuple(key for key, _ in held_out),
        len(different) - len(fitting),
        len(rows) - len(different),
        shortened,
        noise,
    )


def tokenise(row: PairExample, chat: Chat, most_tokens: int) -> tuple[Pair, int] | None:
    """Return both conversations as ids up to their end tokens, and the dropped messages.

    Both have the same context; None: it does not fit with the longer response.
    """
    chosen, rejected = chat.response_ids(row.chosen), chat.response_ids(row.rejected)
    prompt = fit_context(chat, row.messages, most_tokens - max(len(chosen), len(rejected)))
    if prompt is None:
        return None
    pair = Pair((*prompt.ids, *chosen), (*prompt.ids, *rejected), row.margin, row.tie, row.weight)
    return pair, prompt.dropped


def open_model(config: RewardModelConfig, pairs: Pairs) -> tuple[ScalarModel, Pairs]:
    """Return the model to train, and the pairs in its ids."""
    decoder = load_decoder(config.model_directory)
    if config.vocabulary_rows is not None:
        all_pairs = [*pairs.train, *pairs.held_out]
        used = {i for pair in all_pairs for i in (*pair.chosen, *pair.rejected)}
        vocabulary = choose_rows(used, decoder.config.vocab_size, config.vocabulary_rows)
        trim_vocabulary(decoder, vocabulary)
        train, held_out = (
            [narrow(pair, vocabulary) for pair in part] for part in (pairs.train, pairs.held_out)
        )
        pairs = replace(pairs, train=train, held_out=held_out)
    backbone = trainable_backbone(decoder, "reward", config.lora, seed_of(config.seed, "lora"))
    return ScalarModel(
        backbone, ScalarHead(decoder.config.hidden_size, seed_of(config.seed, "head"))
    ), pairs


def narrow(pair: Pair, vocabulary: VocabularyMap) -> Pair:
    """Return the same pair in dense ids."""
    chosen, rejected = (tuple(vocabulary.narrow(ids)) for ids in (pair.chosen, pair.rejected))
    return replace(pair, chosen=chosen, rejected=rejected)


def accumulate(
    scalar: ScalarModel,
    pairs: Sequence[Pair],
    config: RewardModelConfig,
    autocast: Autocast,
    ranks: Ranks,
) -> dict[str, float]:
    """Add the gradient of the loss of these pairs; return figures of all ranks together."""
    sums = torch.zeros(4)  # loss; without ties: count, correct pairs, margin
    for start in range(0, len(pairs), config.microbatch_pairs):
        part = pairs[start : start + config.microbatch_pairs]
        with autocast():
            chosen_B, rejected_B = score_pairs(scalar, part)
        margin_B = torch.tensor([pair.margin for pair in part])
        tie_B = torch.tensor([pair.tie for pair in part])
        weight_B = torch.tensor([pair.weight for pair in part])
        loss = LOSSES[config.loss](
            chosen_B, rejected_B, margin_B, tie_B, config.batch_pairs, weight_B
        )
        loss = loss + config.centre_coefficient * centring(chosen_B, rejected_B, config.batch_pairs)
        torch.autograd.backward(loss)
        gap_B = (chosen_B - rejected_B).detach() * ~tie_B
        sums += torch.stack(
            (loss.detach(), (~tie_B).float().sum(), (gap_B > 0).float().sum(), gap_B.sum())
        )
    loss_value, decided, right, margin = ranks.sum(sums).tolist()
    return {"loss": loss_value} | (
        {"accuracy": right / decided, "margin": margin / decided} if decided else {}
    )


def score_pairs(scalar: ScalarModel, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Return the raw scores of chosen and rejected, [B] each, from one forward pass."""
    ids_BT, mask_BT = pad([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)])
    chosen_B, rejected_B = scalar.at_last(ids_BT, mask_BT).float().chunk(2)
    return chosen_B, rejected_B


@torch.no_grad()
def score_all(
    scalar: ScalarModel, pairs: Sequence[Pair], config: RewardModelConfig, autocast: Autocast
) -> tuple[Tensor, Tensor]:
    """Return the raw scores of all these pairs."""
    size = config.microbatch_pairs
    with autocast():
        parts = [
            score_pairs(scalar, pairs[start : start + size]) for start in range(0, len(pairs), size)
        ]
    return torch.cat([chosen for chosen, _ in parts]), torch.cat(
        [rejected for _, rejected in parts]
    )


def correctness(chosen_B: Tensor, rejected_B: Tensor, pairs: Sequence[Pair]) -> Tensor:
    """Return 1 if the chosen response scores higher, 0.5 for equal scores, otherwise 0.

    [N], for the pairs without ties.
    """
    gap_N = (chosen_B - rejected_B)[torch.tensor([not pair.tie for pair in pairs])]
    return (gap_N > 0).float() + 0.5 * (gap_N == 0).float()
