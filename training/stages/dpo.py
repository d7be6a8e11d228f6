"""DPO (arXiv 2305.18290): train a policy on preference pairs without a reward model.

The reward of a response is the policy's own log-ratio to the reference. Read `run` and `train` from
top to bottom; the step loop is shared with KTO (preference_loop.py). Held-out accuracy is reported
together with its ceiling due to label noise, as for the reward model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.artifacts.manifest import Manifest, finished_manifest
from training.data.chat import Chat, load_chat
from training.data.context import fit_context
from training.data.examples import PairExample, read_pairs
from training.data.seeds import split_by_key
from training.data.tensors import TokenisedExample, length_groups, response_batch
from training.errors import ConfigError
from training.losses.preferences import dpo
from training.model.activation_checkpointing import checkpoint_activations
from training.model.checkpoint import require_positions
from training.model.vocabulary import VocabularyMap
from training.parallelism.layout import arrange_context, distribute_views
from training.rl.label_noise import estimate_label_noise, noise_ceiling
from training.rl.reference import PolicyAndReference, open_policy_and_reference
from training.runtime.context import RunContext
from training.runtime.machine import Autocast, configure_device
from training.runtime.ranks import Ranks
from training.stages.artifact import publish_model
from training.stages.config import DpoConfig
from training.stages.preference_loop import Preferences, train_on_preferences

STAGE = "dpo"


@dataclass(frozen=True)
class Pair:
    """Two tokenised responses to one prompt."""

    chosen: TokenisedExample
    rejected: TokenisedExample
    margin: float = 0.0
    weight: float = 1.0

    @property
    def examples(self) -> tuple[TokenisedExample, TokenisedExample]:
        """Return the chosen and the rejected example."""
        return self.chosen, self.rejected

    @property
    def tokens(self) -> int:
        """Tokens of the longer example, including the prompt."""
        return max(self.chosen.tokens, self.rejected.tokens)

    def to_dense(self, vocabulary: VocabularyMap) -> Pair:
        """Return the same pair in dense ids."""
        chosen, rejected = (example.to_dense(vocabulary) for example in self.examples)
        return Pair(chosen, rejected, self.margin, self.weight)


@dataclass(frozen=True)
class Pairs(Preferences[Pair]):
    """Data of a run with label noise and counts.

    label_noise: None if unknown. dropped_equal: pairs of two equal texts.
    """

    label_noise: float | None = None
    dropped_ties: int = 0
    dropped_equal: int = 0


def run(config: DpoConfig, context: RunContext) -> Manifest:
    """Train, write output_directory, and return its manifest (kind "model").

    Progress metrics: loss, accuracy and margin (of the batch, in nats of reward), learning_rate,
    gradient_norm; at checkpoints also held_out_accuracy, held_out_margin, response_tokens and kl
    (of samples on held-out prompts).

    Report: train_pairs, held_out_pairs, dropped_too_long, dropped_ties, dropped_equal, label_noise
    and label_noise_ceiling (None if unknown), steps, exported_step, stopped_because ("" or the
    reason), held_out_accuracy, held_out_margin, response_tokens, response_tokens_before, kl.
    """
    if done := finished_manifest(config.output_directory):
        return done
    autocast = configure_device(config.machine)
    context = arrange_context(config.parallelism, context, autocast, batch_pairs=config.batch_pairs)
    pairs = read_data(config, load_chat(config.model_directory))
    models = open_policy_and_reference(
        config.model_directory, config.lora, pairs.vocabulary, config.seed
    )
    if config.checkpoint_activations:
        checkpoint_activations(models.policy.decoder)
    distribute_views((models.policy, models.reference), context.ranks)
    numbers, stopped_because = train(models, pairs, config, context, autocast)
    return publish_model(
        config,
        context,
        models.policy,
        report={
            "train_pairs": len(pairs.train),
            "held_out_pairs": len(pairs.held_out),
            "dropped_too_long": pairs.dropped_too_long,
            "contexts_shortened": pairs.contexts_shortened,
            "dropped_ties": pairs.dropped_ties,
            "dropped_equal": pairs.dropped_equal,
            "label_noise": pairs.label_noise,
            "label_noise_ceiling": None
            if pairs.label_noise is None
            else noise_ceiling(pairs.label_noise),
            "stopped_because": stopped_because,
            "exported_step": int(numbers.pop("step")),
            **numbers,
        },
    )


def train(
    models: PolicyAndReference,
    pairs: Pairs,
    config: DpoConfig,
    context: RunContext,
    autocast: Autocast,
) -> tuple[dict[str, float], str]:
    """Train the policy; see train_on_preferences for the result."""

    def learn(batch: Sequence[Pair]) -> dict[str, float]:
        return accumulate(models, context.ranks.share(batch), config, autocast, context.ranks)

    def evaluate_held_out() -> dict[str, float]:
        return held_out_figures(models, pairs.held_out, config, autocast)

    return train_on_preferences(
        pairs,
        models,
        config.batch_pairs,
        learn,
        evaluate_held_out,
        STAGE,
        config,
        context,
        autocast,
    )


def accumulate(
    models: PolicyAndReference,
    pairs: Sequence[Pair],
    config: DpoConfig,
    autocast: Autocast,
    ranks: Ranks,
) -> dict[str, float]:
    """Add the gradient of the loss of these pairs; return figures of all ranks together."""
    sums = torch.zeros(3)  # loss, correct pairs, margin
    for part in length_groups(pairs, config.microbatch_pairs):
        with autocast():
            chosen_B, rejected_B = log_ratios(models, part)
        margin_B = config.margin_weight * torch.tensor([pair.margin for pair in part])
        loss = dpo(
            chosen_B,
            rejected_B,
            margin_B,
            config.beta,
            config.label_smoothing,
            config.batch_pairs,
            torch.tensor([pair.weight for pair in part]),
        )
        torch.autograd.backward(loss)
        gap_B = config.beta * (chosen_B - rejected_B).detach()
        sums += torch.stack(
            (
                loss.detach(),
                (gap_B > 0).sum() / config.batch_pairs,
                gap_B.sum() / config.batch_pairs,
            )
        )
    loss_value, accuracy, margin = ranks.sum(sums).tolist()
    return {"loss": loss_value, "accuracy": accuracy, "margin": margin}


def log_ratios(models: PolicyAndReference, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Return log-ratios to the reference of chosen and rejected, [B] each, from one forward."""
    batch = response_batch([*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)])
    chosen_B, rejected_B = models.log_ratios(batch).chunk(2)
    return chosen_B, rejected_B


@torch.no_grad()
def held_out_figures(
    models: PolicyAndReference, pairs: Sequence[Pair], config: DpoConfig, autocast: Autocast
) -> dict[str, float]:
    """Return reward accuracy (a tie counts half) and margin."""
    gaps = []
    for part in length_groups(pairs, config.microbatch_pairs):
        with autocast():
            chosen_B, rejected_B = log_ratios(models, part)
        gaps.append(config.beta * (chosen_B - rejected_B))
    gap = torch.cat(gaps)
    accuracy = ((gap > 0).float() + 0.5 * (gap == 0).float()).mean()
    return {"held_out_accuracy": float(accuracy), "held_out_margin": float(gap.mean())}


def read_data(config: DpoConfig, chat: Chat) -> Pairs:
    """Tokenise, shorten contexts, drop long and undecided pairs, and hold out prompts.

    The vocabulary is trimmed to what both parts need.
    """
    require_positions(config.model_directory, max_tokens=config.max_tokens)
    rows = read_pairs(config.data_path, config.allow_extra_fields)
    noise = config.label_noise if config.label_noise is not None else estimate_label_noise(rows)
    decided = [row for row in rows if row.is_decided]
    if not decided:
        raise ConfigError(
            f"data_path: none of {len(rows)} pairs has a preferred response",
            field="data_path",
            reason="EMPTY",
        )
    fitting: list[tuple[str, Pair]] = []
    shortened = 0
    for row in decided:
        if found := tokenise(row, chat, config.max_tokens):
            fitting.append((row.prompt_id, found[0]))
            shortened += found[1] > 0
    train, held_out = split_by_key(
        fitting, config.held_out_fraction, config.seed, {"a preferred response": lambda pair: True}
    )
    equal = sum(row.is_identical for row in rows)
    ties, too_long = len(rows) - len(decided) - equal, len(decided) - len(fitting)
    pairs = Pairs(
        train,
        held_out,
        chat.stop_ids,
        too_long,
        shortened,
        None,
        chat.decode,
        noise,
        dropped_ties=ties,
        dropped_equal=equal,
    )
    return (
        pairs
        if config.vocabulary_rows is None
        else pairs.trimmed(config.model_directory, config.vocabulary_rows)
    )


def tokenise(row: PairExample, chat: Chat, most_tokens: int) -> tuple[Pair, int] | None:
    """Return both conversations as ids up to their end tokens, and the dropped messages.

    Both have the same context; None: it does not fit with the longer response.
    """
    responses = [tuple(chat.response_ids(text)) for text in (row.chosen, row.rejected)]
    prompt = fit_context(chat, row.messages, most_tokens - max(map(len, responses)))
    if prompt is None:
        return None
    chosen, rejected = (TokenisedExample(prompt.ids, response) for response in responses)
    return Pair(chosen, rejected, row.margin, row.weight), prompt.dropped
