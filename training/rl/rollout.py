"""Responses of a policy, with everything that PPO and GRPO must know of how they were sampled.

Shapes: B rows (prompts x samples), P prompt columns (padded on the left), R response columns (padded on the right),
V vocabulary, D hidden. Every row draws from its own seed, so it does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from training.data.order import seed_of
from training.data.tensors import FILL_ID, pad
from training.model.backbone import Backbone
from training.rl.losses import token_log_probs


@dataclass(frozen=True)
class Rollout:
    """response_mask is 1 up to and including the stop token. log_probs are the sampler's, at its temperature.

    tasks: what each row's prompt refers to in the data file, for verifiers; the stage fills it in, engines know no data.
    """

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    response_ids_BR: Tensor
    response_mask_BR: Tensor
    log_probs_BR: Tensor
    ended_B: Tensor  # True where a stop token was sampled
    version: str
    tasks: tuple[str, ...] = ()

    @property
    def ids_BT(self) -> Tensor:
        """Prompt and response."""
        return torch.cat((self.prompt_ids_BP, self.response_ids_BR), dim=1)

    @property
    def mask_BT(self) -> Tensor:
        """Real tokens of prompt and response."""
        return torch.cat((self.prompt_mask_BP, self.response_mask_BR), dim=1)

    def rows(self, index: Tensor) -> Rollout:
        """These rows only."""
        return Rollout(
            prompt_ids_BP=self.prompt_ids_BP[index],
            prompt_mask_BP=self.prompt_mask_BP[index],
            response_ids_BR=self.response_ids_BR[index],
            response_mask_BR=self.response_mask_BR[index],
            log_probs_BR=self.log_probs_BR[index],
            ended_B=self.ended_B[index],
            version=self.version,
            tasks=tuple(self.tasks[row] for row in index.tolist()) if self.tasks else (),
        )


class RolloutEngine(Protocol):
    """Whatever samples: the policy in this process, or a model server behind an adapter. Token ids in, token ids out."""

    def sample(
        self, token_ids: Sequence[Sequence[int]], n: int, max_new: int, temperature: float, seeds: Sequence[int]
    ) -> Rollout:
        """n responses to each prompt, in prompt order.

        Args:
            max_new: tokens, the stop token included.
            temperature: 0 is greedy. No top-p or top-k: log-probs must be those of the distribution sampled from.
            seeds: one a prompt.
        """


@dataclass(frozen=True)
class CachedEngine:
    """Samples from a backbone with a key-value cache, in fp32 whatever the trainer computes in."""

    backbone: Backbone
    stop_ids: tuple[int, ...]
    version: str = ""

    @torch.no_grad()
    def sample(
        self, token_ids: Sequence[Sequence[int]], n: int, max_new: int, temperature: float, seeds: Sequence[int]
    ) -> Rollout:
        """See RolloutEngine."""
        prompts = [prompt for prompt in token_ids for _ in range(n)]
        prompt_ids_BP, prompt_mask_BP = pad(prompts, side="left")
        noise_BR = _noise(seeds, n, max_new)
        stop = torch.tensor(self.stop_ids)
        cache = self.backbone.decoder.new_cache(len(prompts), prompt_ids_BP.shape[1] + max_new)
        mask_BS, new_ids = prompt_mask_BP, prompt_ids_BP
        running_B = torch.ones(len(prompts), dtype=torch.bool)
        ids, masks, log_probs = [], [], []
        for column in range(max_new):
            hidden_BD = self.backbone.hidden(new_ids, mask_BS, cache)[:, -1]
            logits_BV = self.backbone.decoder.logits(hidden_BD)
            token_B = choose(logits_BV, noise_BR[:, column], temperature)
            log_prob_B = token_log_probs(logits_BV, token_B, temperature or 1.0)
            ids.append(torch.where(running_B, token_B, FILL_ID))
            masks.append(running_B.long())
            log_probs.append(torch.where(running_B, log_prob_B, 0.0))
            mask_BS = torch.cat((mask_BS, running_B.long()[:, None]), dim=1)
            running_B = running_B & ~torch.isin(token_B, stop)
            new_ids = ids[-1][:, None]
            if not running_B.any():
                break
        return Rollout(
            prompt_ids_BP=prompt_ids_BP,
            prompt_mask_BP=prompt_mask_BP,
            response_ids_BR=torch.stack(ids, dim=1),
            response_mask_BR=torch.stack(masks, dim=1),
            log_probs_BR=torch.stack(log_probs, dim=1),
            ended_B=~running_B,
            version=self.version,
        )


def choose(logits_BV: Tensor, noise_B: Tensor, temperature: float) -> Tensor:
    """One token a row: the inverse of the cumulative distribution at `noise` in [0, 1). In fp64: 262k terms add up."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    cumulative_BV = (logits_BV.double() / temperature).softmax(-1).cumsum(-1)
    wanted_B1 = noise_B[:, None].double() * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, wanted_B1, right=True)
    return token_B1.squeeze(-1).clamp(max=logits_BV.shape[-1] - 1)


def response_log_probs(backbone: Backbone, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probs of the response tokens as the trainer computes them, [B, R], 0 where masked; and logits_NV of the real ones.

    Every policy term uses these, never the sampler's own, so that the first ratio is exactly 1.
    """
    hidden_BRD = before_response(backbone.hidden(rollout.ids_BT, rollout.mask_BT), rollout)
    real_BR = rollout.response_mask_BR.bool()
    logits_NV = backbone.decoder.logits(hidden_BRD[real_BR])
    log_probs_BR = torch.zeros(real_BR.shape)
    log_probs_BR[real_BR] = token_log_probs(logits_NV, rollout.response_ids_BR[real_BR], temperature)
    return log_probs_BR, logits_NV


def before_response(state_BT: Tensor, rollout: Rollout) -> Tensor:
    """The column before each response token, [B, R, ...]: what predicts it, and the state that the critic values."""
    prompt_columns = rollout.prompt_ids_BP.shape[1]
    return state_BT[:, prompt_columns - 1 : -1]


def _noise(seeds: Sequence[int], n: int, max_new: int) -> Tensor:
    rows = [
        torch.rand(max_new, generator=torch.Generator().manual_seed(seed_of(seed, sample)), dtype=torch.float64)
        for seed in seeds
        for sample in range(n)
    ]
    return torch.stack(rows)
