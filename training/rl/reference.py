"""Policy and frozen reference model, for the comparison in DPO and KTO and for collapse detection.

The reference is computed in every step and never stored, so a step depends only on its number, and
a resumed run needs no file of log-probs (docs/decisions/preference-optimization.md). With
LoRA the reference is the same decoder with its adapter switched off.

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
from training.losses.log_probs import next_token_log_probs, scatter_back
from training.model.backbone import Backbone, trainable_backbone
from training.model.checkpoint import load_decoder
from training.model.config import LoraConfig
from training.model.vocabulary import VocabularyMap, trim_vocabulary
from training.rl.alarms import Limits, alarm
from training.rl.config import WatchConfig
from training.rl.rollout import CachedEngine, Rollout, SampleRequest, response_log_probs
from training.runtime.ranks import Ranks


@dataclass(frozen=True)
class PolicyAndReference:
    """Trained policy and frozen reference."""

    policy: Backbone
    reference: Backbone

    def log_ratios(self, batch: ResponseBatch) -> Tensor:
        """Return log policy - log reference of each whole response with its end, [B].

        Only the policy has a gradient.
        """
        with torch.no_grad():
            reference_B = sequence_log_probs(self.reference, batch)
        return sequence_log_probs(self.policy, batch) - reference_B


def open_policy_and_reference(
    model_directory: Path, lora: LoraConfig | None, vocabulary: VocabularyMap | None, seed: int
) -> PolicyAndReference:
    """Load the model once with LoRA, otherwise twice."""
    decoder = load_decoder(model_directory)
    if vocabulary is not None:
        trim_vocabulary(decoder, vocabulary)
    policy = trainable_backbone(decoder, "policy", lora, seed_of(seed, "lora"))
    frozen = decoder if lora is not None else load_decoder(model_directory).requires_grad_(False)
    return PolicyAndReference(policy, Backbone(frozen))


def sequence_log_probs(backbone: Backbone, batch: ResponseBatch) -> Tensor:
    """Return the log-probability of each row's response given its prompt, [B]."""
    return response_token_log_probs(backbone, batch).sum(1)


def response_token_log_probs(backbone: Backbone, batch: ResponseBatch) -> Tensor:
    """Return log-probs of the response tokens, [B, T - 1], 0 elsewhere."""
    hidden_BTD = backbone.hidden(batch.ids_BT, batch.mask_BT)
    chosen_BT = batch.response_mask_BT
    log_probs_N = next_token_log_probs(backbone.decoder, hidden_BTD, batch.ids_BT, chosen_BT)
    return scatter_back(log_probs_N, chosen_BT[:, 1:], chosen_BT[:, 1:].shape)


@dataclass(frozen=True)
class Watch:
    """Samples responses to held-out prompts, always with the same random numbers."""

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
        """Sample responses; return figures over all ranks and the rollout of this rank.

        The figures are the mean response_tokens, and kl: the mean log-ratio to the reference in
        nats per response (k1).

        Args:
            autocast: context of the reference's forward pass if its shards are gathered in
                bfloat16; otherwise the pass is in fp32.
        """
        mine = ranks.share(range(len(self.prompts)))
        # A dummy row for ranks without prompts: a forward of a sharded reference needs all ranks.
        places = mine or [0]
        rollout = CachedEngine(models.policy, self.stop_ids).sample(
            SampleRequest.of(
                [self.prompts[place] for place in places],
                1,
                self.config.max_response_tokens,
                1.0,
                [seed_of(self.seed, "watch", place) for place in places],
            )
        )
        with autocast() if ranks.narrow else nullcontext():
            reference_BR = response_log_probs(models.reference, rollout, 1.0)
        sums = torch.stack(
            (rollout.response_mask_BR.sum(), (rollout.log_probs_BR - reference_BR).sum())
        )
        tokens, ratios = ranks.sum(sums.float() if mine else torch.zeros(2)).tolist()
        return {
            "response_tokens": tokens / len(self.prompts),
            "kl": ratios / len(self.prompts),
        }, rollout

    def alarm(self, before: float, seen: Mapping[str, float]) -> str:
        """Return the reason why training must stop, or "".

        Collapsed responses are empty, or endless and far from the reference.

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
