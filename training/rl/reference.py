"""A policy beside the frozen model that it starts from: what DPO and KTO compare, and what watches
that responses don't collapse.

The reference is computed anew in every step, never stored: a step stays a function of its number,
so a resumed run needs no file of log-probs (docs/decisions/2026-11-26-reference-log-probs.md). With
LoRA it is the same decoder with the adapter off.

Shapes: B responses, T tokens, N selected tokens, V vocabulary, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.data.tensors import ResponseBatch
from training.model.backbone import Backbone, trainable_backbone
from training.model.checkpoint import load_decoder
from training.model.lora import LoraConfig
from training.model.vocabulary import VocabularyMap, trim_vocabulary
from training.optim.ranks import Ranks
from training.ranges import Count, FractionBelowOne, Limit, check_ranges
from training.rl.alarms import Limits, alarm
from training.rl.log_probs import in_place, next_token_log_probs
from training.rl.rollout import CachedEngine, Rollout, response_log_probs


@dataclass(frozen=True)
class PolicyAndReference:
    """`policy` learns, `reference` never does."""

    policy: Backbone
    reference: Backbone

    def log_ratios(self, batch: ResponseBatch) -> Tensor:
        """log policy - log reference of each whole response, its end included, [B]. Gradient
        through the policy alone.
        """
        with torch.no_grad():
            reference_B = sequence_log_probs(self.reference, batch)
        return sequence_log_probs(self.policy, batch) - reference_B


def open_policy_and_reference(
    model_directory: Path, lora: LoraConfig | None, vocabulary: VocabularyMap | None, seed: int
) -> PolicyAndReference:
    """Load the model once with LoRA, else twice."""
    decoder = load_decoder(model_directory)
    if vocabulary is not None:
        trim_vocabulary(decoder, vocabulary)
    policy = trainable_backbone(decoder, "policy", lora, seed_of(seed, "lora"))
    frozen = decoder if lora is not None else load_decoder(model_directory).requires_grad_(False)
    return PolicyAndReference(policy, Backbone(frozen))


def sequence_log_probs(backbone: Backbone, batch: ResponseBatch) -> Tensor:
    """Log-probability of each row's response given its prompt, [B]."""
    return response_token_log_probs(backbone, batch).sum(1)


def response_token_log_probs(backbone: Backbone, batch: ResponseBatch) -> Tensor:
    """Log-probability of each response token given what is before it, [B, T - 1], else 0."""
    hidden_BTD = backbone.hidden(batch.ids_BT, batch.mask_BT)
    chosen_BT = batch.response_mask_BT
    log_probs_N = next_token_log_probs(backbone.decoder, hidden_BTD, batch.ids_BT, chosen_BT)
    return in_place(log_probs_N, chosen_BT[:, 1:], chosen_BT[:, 1:].shape)


@dataclass(frozen=True)
class WatchConfig:
    """What is sampled at every checkpoint. The loss falls while responses collapse
    (reference/training.md, section 6), so it can't tell.

    Attributes:
        prompts: held-out prompts that are answered at each checkpoint, at least 1
        max_response_tokens: of each answer, at least 1
        length_floor_fraction: of the mean answer tokens before training, below which training
            stops; in [0, 1)
        kl_ceiling_nats: KL to the reference, in nats an answer, above which training stops; above 0
    """

    prompts: Count = 32
    max_response_tokens: Count = 64
    length_floor_fraction: FractionBelowOne = 0.25
    kl_ceiling_nats: Limit = 20.0

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class Watch:
    """Samples responses to prompts that are never learned from, always with the same random
    numbers.
    """

    config: WatchConfig
    prompts: Sequence[Sequence[int]]
    stop_ids: tuple[int, ...]
    seed: int

    @torch.no_grad()
    def look(
        self,
        models: PolicyAndReference,
        ranks: Ranks,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> tuple[dict[str, float], Rollout]:
        """Mean response_tokens, and kl: mean log-ratio to the reference in nats a response (k1). Of
        all ranks together. And this rank's responses.

        Args:
            autocast: in which the reference is read where its shards are gathered in bfloat16; else
                it is read in fp32.
        """
        mine = ranks.share(range(len(self.prompts)))
        places = mine or [
            0
        ]  # of nothing: where the reference is shared out, each forward needs every worker
        rollout = CachedEngine(models.policy, self.stop_ids).sample(
            [self.prompts[place] for place in places],
            1,
            self.config.max_response_tokens,
            1.0,
            [seed_of(self.seed, "watch", place) for place in places],
        )
        with autocast() if ranks.narrow else nullcontext():
            reference_BR, _ = response_log_probs(models.reference, rollout, 1.0)
        sums = torch.stack(
            (rollout.response_mask_BR.sum(), (rollout.log_probs_BR - reference_BR).sum())
        )
        tokens, ratios = ranks.sum(sums.float() if mine else torch.zeros(2)).tolist()
        return {
            "response_tokens": tokens / len(self.prompts),
            "kl": ratios / len(self.prompts),
        }, rollout

    def alarm(self, before: float, seen: Mapping[str, float]) -> str:
        """Why training must stop, or "". Responses collapse either way: to nothing, or to one that
        never ends, far from the reference.

        Args:
            before: mean response tokens before training.
        """
        numbers = {
            "first_response_tokens": before,
            **{f"last_{name}": figure for name, figure in seen.items()},
        }
        return alarm(
            numbers, Limits(self.config.kl_ceiling_nats, self.config.length_floor_fraction)
        )
