"""KTO (arXiv 2402.01306): train a policy on single thumbs, without pairs and a reward model.

Thumbs are rarely balanced. With equal weights a majority of thumbs down makes all responses
collapse to their end token. Therefore weights follow from the counts in the data: w_up n_up =
w_down n_down. The step loop is shared with DPO (preference_loop.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from training.artifacts.manifest import Manifest, finished_manifest
from training.data.chat import Chat, load_chat
from training.data.context import fit_context
from training.data.examples import ThumbExample, read_thumbs
from training.data.seeds import split_by_key
from training.data.served import Served
from training.data.tensors import TokenisedExample, length_groups, response_batch
from training.losses.preferences import kto
from training.model.activation_checkpointing import checkpoint_activations
from training.model.backbone import Backbone
from training.model.checkpoint import load_decoder, require_positions
from training.model.vocabulary import VocabularyMap
from training.parallelism.layout import arrange_context, distribute, distribute_views
from training.rl.reference import PolicyAndReference, open_policy_and_reference
from training.rl.served import ServedAnswer, compare_log_probs, read_answer
from training.runtime.context import RunContext
from training.runtime.machine import Autocast, configure_device
from training.runtime.ranks import Ranks
from training.stages.artifact import publish_model
from training.stages.config import KtoConfig
from training.stages.preference_loop import Preferences, train_on_preferences

STAGE = "kto"


@dataclass(frozen=True)
class Thumb:
    """A rated, tokenised response; `served` and `unfit` are as in rl/served.py."""

    example: TokenisedExample
    up: bool
    served: Served | None = None
    unfit: str = ""

    @property
    def examples(self) -> tuple[TokenisedExample]:
        """Return the only example."""
        return (self.example,)

    @property
    def tokens(self) -> int:
        """Tokens of prompt and response together."""
        return self.example.tokens

    def to_dense(self, vocabulary: VocabularyMap) -> Thumb:
        """Return the same thumb in dense ids."""
        return replace(self, example=self.example.to_dense(vocabulary))


@dataclass(frozen=True)
class Thumbs(Preferences[Thumb]):
    """Data of a run: thumbs to train on and held-out thumbs."""

    @property
    def ups(self) -> int:
        """Number of thumbs up among the training data."""
        return sum(thumb.up for thumb in self.train)


def run(config: KtoConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, baseline (z0, nats), up_reward and down_reward (mean of beta r in the
    batch), importance (mean, with a cap), learning_rate, gradient_norm; at checkpoints also
    held_out_accuracy, response_tokens and kl (of samples on held-out prompts).

    Report: train_thumbs, train_thumbs_up, held_out_thumbs, dropped_too_long, contexts_shortened,
    up_weight, down_weight, exported_step, stopped_because ("" or the reason), held_out_accuracy,
    response_tokens, response_tokens_before, kl; answers_unsampled, answers_unfit, and off_policy by
    version (training/rl/served.py).

    Raises:
        OffPolicyError: the data has answers that must not be learned from.
    """
    if done := finished_manifest(config.output_directory):
        return done
    autocast = configure_device(config.machine)
    context = arrange_context(config.parallelism, context, autocast, batch_rows=config.batch_rows)
    data = read_data(config, load_chat(config.model_directory))
    thumbs, off_policy = weigh_by_sample(data, config, context.ranks, autocast)
    if config.vocabulary_rows is not None:
        thumbs = thumbs.trimmed(config.model_directory, config.vocabulary_rows)
    models = open_policy_and_reference(
        config.model_directory, config.lora, thumbs.vocabulary, config.seed
    )
    if config.checkpoint_activations:
        checkpoint_activations(models.policy.decoder)
    distribute_views((models.policy, models.reference), context.ranks)
    numbers, stopped_because = train(models, thumbs, config, context, autocast)
    up_weight, down_weight = thumb_weights(thumbs, config)
    return publish_model(
        config,
        context,
        models.policy,
        report={
            "train_thumbs": len(thumbs.train),
            "train_thumbs_up": thumbs.ups,
            "held_out_thumbs": len(thumbs.held_out),
            "dropped_too_long": thumbs.dropped_too_long,
            "contexts_shortened": thumbs.contexts_shortened,
            "up_weight": up_weight,
            "down_weight": down_weight,
            "stopped_because": stopped_because,
            "exported_step": int(numbers.pop("step")),
            **numbers,
            **off_policy,
        },
    )


def train(
    models: PolicyAndReference,
    thumbs: Thumbs,
    config: KtoConfig,
    context: RunContext,
    autocast: Autocast,
) -> tuple[dict[str, float], str]:
    """Train the policy; see train_on_preferences for the result."""
    weights = thumb_weights(thumbs, config)

    def learn(batch: Sequence[Thumb]) -> dict[str, float]:
        z0 = baseline(models, batch, config, autocast, context.ranks)
        return accumulate(models, batch, z0, weights, config, autocast, context.ranks)

    def evaluate_held_out() -> dict[str, float]:
        return held_out_figures(models, thumbs.held_out, config, autocast)

    return train_on_preferences(
        thumbs,
        models,
        config.batch_rows,
        learn,
        evaluate_held_out,
        STAGE,
        config,
        context,
        autocast,
    )


def thumb_weights(thumbs: Thumbs, config: KtoConfig) -> tuple[float, float]:
    """Return the weights of a thumb up and of a thumb down.

    The rarer kind has the larger weight, so that both kinds have equal total weight.
    """
    ups, downs = thumbs.ups, len(thumbs.train) - thumbs.ups
    return (
        (1.0, 1.0) if config.weights == "equal" else (max(1.0, downs / ups), max(1.0, ups / downs))
    )


@torch.no_grad()
def baseline(
    models: PolicyAndReference,
    batch: Sequence[Thumb],
    config: KtoConfig,
    autocast: Autocast,
    ranks: Ranks,
) -> float:
    """Return z0 = max(0, mean log-ratio of mismatched prompts and responses of the batch).

    The mean is over all ranks and has no gradient.
    """
    mismatched = [
        TokenisedExample(
            one.example.prompt,
            other.example.response[: config.max_tokens - len(one.example.prompt)],
        )
        for one, other in zip(batch, [batch[-1], *batch[:-1]], strict=True)
    ]
    total = torch.zeros(())
    for start in range(0, len(mine := ranks.share(mismatched)), config.microbatch_rows):
        with autocast():
            total += models.log_ratios(
                response_batch(mine[start : start + config.microbatch_rows])
            ).sum()
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
    for part in length_groups(ranks.share(batch), config.microbatch_rows):
        with autocast():
            ratios_B = log_ratios(models, part)
        up_B = torch.tensor([thumb.up for thumb in part])
        # A mask on the CPU selects without a synchronisation with the accelerator.
        ups_B = torch.tensor([thumb.up for thumb in part], device="cpu")
        importance_B = torch.tensor([thumb.example.weight for thumb in part])
        loss = kto(ratios_B, up_B, z0, config.beta, weights, len(batch), importance_B)
        torch.autograd.backward(loss)
        rewards_B = config.beta * ratios_B.detach()
        sums += torch.stack((loss.detach(), rewards_B[ups_B].sum(), rewards_B[~ups_B].sum()))
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
    """Return the log-ratios to the reference, [B]."""
    return models.log_ratios(response_batch([thumb.example for thumb in thumbs]))


@torch.no_grad()
def held_out_figures(
    models: PolicyAndReference, thumbs: Sequence[Thumb], config: KtoConfig, autocast: Autocast
) -> dict[str, float]:
    """Return the share of (liked, disliked) pairs of responses with the liked one ranked higher.

    The rank is the log-ratio. A tie counts half, so neither z0 nor the share of thumbs up changes
    the result.
    """
    ratios: dict[bool, list[Tensor]] = {True: [], False: []}
    for part in length_groups(thumbs, config.microbatch_rows):
        with autocast():
            ratios_B = log_ratios(models, part)
        for thumb, ratio in zip(part, ratios_B, strict=True):
            ratios[thumb.up].append(ratio)
    gap_UD = torch.stack(ratios[True])[:, None] - torch.stack(ratios[False])
    return {"held_out_accuracy": float(((gap_UD > 0).float() + 0.5 * (gap_UD == 0).float()).mean())}


def read_data(config: KtoConfig, chat: Chat) -> Thumbs:
    """Tokenise, shorten contexts, drop rows that are too long, and hold out some prompts.

    Both kinds of thumbs are needed to train and to measure.
    """
    require_positions(config.model_directory, max_tokens=config.max_tokens)
    rows = read_thumbs(config.data_path, config.allow_extra_fields)
    fitting: list[tuple[str, Thumb]] = []
    shortened = 0
    for row in rows:
        if found := tokenise(row, chat, config.max_tokens):
            fitting.append((row.prompt_id, found[0]))
            shortened += found[1] > 0
    train, held_out = split_by_key(
        fitting,
        config.held_out_fraction,
        config.seed,
        {"a thumb up": lambda thumb: thumb.up, "a thumb down": lambda thumb: not thumb.up},
    )
    dropped = len(rows) - len(fitting)
    return Thumbs(train, held_out, chat.stop_ids, dropped, shortened, decode=chat.decode)


def tokenise(row: ThumbExample, chat: Chat, most_tokens: int) -> tuple[Thumb, int] | None:
    """Return prompt and response as ids up to the end token, and the dropped messages.

    None: the context does not fit with the response. After a shortened context there is no sample,
    because its log-probs are those after the whole context.
    """
    answer = read_answer(row.served, row.messages, row.response, chat)
    thumb = Thumb(answer.example, row.up, answer.served, answer.unfit)
    if thumb.tokens <= most_tokens:
        return thumb, 0
    prompt = fit_context(chat, row.messages, most_tokens - len(thumb.example.response))
    if prompt is None:
        return None
    example = replace(thumb.example, prompt=prompt.ids)
    return Thumb(example, row.up), prompt.dropped


def weigh_by_sample(
    thumbs: Thumbs, config: KtoConfig, ranks: Ranks, autocast: Autocast
) -> tuple[Thumbs, dict[str, Any]]:
    """Return the thumbs weighted by their answers' samples, and figures for the report.

    Raises:
        OffPolicyError: the data has answers that must not be learned from.
    """

    def open_initial() -> Backbone:
        decoder = load_decoder(config.model_directory).requires_grad_(False)
        # Every worker reads all answers, so all make the same number of forward passes.
        distribute(decoder, ranks)
        return Backbone(decoder)

    both = [*thumbs.train, *thumbs.held_out]
    answers, figures = compare_log_probs(
        open_initial,
        config.model_directory.name,
        [ServedAnswer(thumb.example, thumb.served, thumb.unfit) for thumb in both],
        config.off_policy,
        config.microbatch_rows,
        autocast,
    )
    weighted = [
        replace(thumb, example=answer.example) for thumb, answer in zip(both, answers, strict=True)
    ]
    count = len(thumbs.train)
    return replace(thumbs, train=weighted[:count], held_out=weighted[count:]), figures
