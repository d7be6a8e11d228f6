"""Rollouts: responses of a policy, with the data about sampling that PPO and GRPO need.

Shapes: B rows (prompts x samples), P prompt columns (padded on the left), R response columns
(padded on the right), V vocabulary, D hidden. Every row samples from its own seed, so rows of a
batch are independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from training.decoding.rows import Rows, steps, stop_at
from training.decoding.sampling import choose, row_noise
from training.losses.log_probs import (
    TokenFigures,
    chosen_log_probs,
    scatter_back,
    token_log_probs,
)
from training.model.backbone import Backbone
from training.model.transformer import KeyValueCache


@dataclass(frozen=True)
class Rollout:
    """Sampled responses.

    Attributes:
        response_mask_BR: 1 up to and including the stop token.
        log_probs_BR: log-probs of the sampler at its temperature.
        tasks: reference of each row's prompt to the data file, for verifiers; set by the stage,
            because engines know no data.
        copies: responses per prompt. With more than one, forward passes read each prompt once.
    """

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    response_ids_BR: Tensor
    response_mask_BR: Tensor
    log_probs_BR: Tensor
    ended_B: Tensor  # True if a stop token was sampled
    version: str
    tasks: tuple[str, ...] = ()
    copies: int = 1

    @property
    def ids_BT(self) -> Tensor:
        """Return the ids of prompt and response."""
        return torch.cat((self.prompt_ids_BP, self.response_ids_BR), dim=1)

    @property
    def mask_BT(self) -> Tensor:
        """Return the mask of real tokens of prompt and response."""
        return torch.cat((self.prompt_mask_BP, self.response_mask_BR), dim=1)

    def rows(self, index: Tensor) -> Rollout:
        """Return the given rows.

        `index` is on the CPU.
        """
        tasks = tuple(self.tasks[row] for row in index.tolist()) if self.tasks else ()
        return replace(
            self, tasks=tasks, **{name: tensor[index] for name, tensor in self._tensors().items()}
        )

    def to(self, device: torch.device) -> Rollout:
        """Return the rollout on a device."""
        return replace(
            self, **{name: tensor.to(device) for name, tensor in self._tensors().items()}
        )

    def read(self, decode: Callable[[Sequence[int]], str], most: int) -> list[tuple[str, str]]:
        """Return the first prompts, at most `most`, with their first responses as text."""
        here = self.to(torch.device("cpu"))
        return [
            (
                decode(here.prompt_ids_BP[row][here.prompt_mask_BP[row].bool()].tolist()),
                decode(here.response_ids_BR[row][here.response_mask_BR[row].bool()].tolist()),
            )
            for row in range(0, len(here.ended_B), self.copies)[:most]
        ]

    def _tensors(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class SampleRequest:
    """Request to an engine: n responses to each prompt, with one seed per prompt.

    Args:
        max_new: tokens of a response, including the stop token.
        temperature: 0 is greedy. There is no top-p or top-k, because log-probs must be those of the
            sampled distribution.
    """

    token_ids: tuple[tuple[int, ...], ...]
    n: int
    max_new: int
    temperature: float
    seeds: tuple[int, ...]

    @classmethod
    def of(
        cls,
        token_ids: Sequence[Sequence[int]],
        n: int,
        max_new: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> SampleRequest:
        """Return the request for sequences of any type."""
        return cls(tuple(map(tuple, token_ids)), n, max_new, temperature, tuple(seeds))

    def rows(self, these: slice) -> SampleRequest:
        """Return the request for some of the prompts."""
        return SampleRequest(
            self.token_ids[these], self.n, self.max_new, self.temperature, self.seeds[these]
        )


class RolloutEngine(Protocol):
    """Sampler: the policy in this process, or a model server behind an adapter.

    Input and output are token ids.
    """

    def sample(self, request: SampleRequest) -> Rollout:
        """Sample the responses, in the order of the prompts."""


@dataclass(frozen=True)
class CachedEngine:
    """Engine that samples from a backbone with a key-value cache.

    It computes in fp32, independent of the trainer's type.
    """

    backbone: Backbone
    stop_ids: tuple[int, ...]
    version: str = ""

    @torch.no_grad()
    def sample(self, request: SampleRequest) -> Rollout:
        """Implement `RolloutEngine.sample` in fp32."""
        n, max_new, temperature = request.n, request.max_new, request.temperature
        rows = Rows(self.backbone, request.token_ids, max_new, copies=n)
        prompt_ids_BP, prompt_mask_BP = rows.ids_BS, rows.mask_BS
        noise_BR = row_noise(request.seeds, n, max_new).to(prompt_ids_BP.device)

        def draw(_: Rows, logits_BV: Tensor, column: int) -> Tensor:
            return choose(logits_BV, noise_BR[:, column], temperature)

        masks, log_probs = [], []
        for step in steps(rows, draw, stop_at(self.stop_ids), max_new):
            masks.append(step.real_B.long())
            log_prob_B = token_log_probs(step.logits_BV, step.token_B, temperature or 1.0)
            log_probs.append(torch.where(step.real_B, log_prob_B, 0.0))
        return Rollout(
            prompt_ids_BP=prompt_ids_BP,
            prompt_mask_BP=prompt_mask_BP,
            response_ids_BR=rows.ids_BS[:, prompt_ids_BP.shape[1] :],
            response_mask_BR=torch.stack(masks, dim=1),
            log_probs_BR=torch.stack(log_probs, dim=1),
            ended_B=~step.running_B,
            version=self.version,
            copies=n,
        )


def response_log_probs(backbone: Backbone, rollout: Rollout, temperature: float) -> Tensor:
    """Return the trainer's log-probs of the response tokens, [B, R], 0 where masked.

    Every term of the policy loss uses these log-probs and never those of the sampler, so the first
    ratio is exactly 1.
    """
    return response_figures(backbone, rollout, temperature, with_entropy=False).log_probs_N


def response_figures(
    backbone: Backbone, rollout: Rollout, temperature: float, with_entropy: bool = True
) -> TokenFigures:
    """Return the log-probs of the response tokens, [B, R], and the entropy at real tokens, [N]."""
    hidden_BRD = states_before_response(backbone, rollout)
    mask_BR, targets_BR = rollout.response_mask_BR, rollout.response_ids_BR
    # Computed once, because the size of the result waits for the accelerator.
    real = mask_BR.nonzero(as_tuple=True)
    found = chosen_log_probs(
        backbone.decoder, hidden_BRD, targets_BR, real, temperature, with_entropy
    )
    return found._replace(log_probs_N=scatter_back(found.log_probs_N, real, mask_BR.shape))


def states_before_response(backbone: Backbone, rollout: Rollout) -> Tensor:
    """Return the hidden states that predict each response token, [B, R, D].

    Copies of a prompt share its forward pass and gradient, because prompts are half of the tokens
    or more if responses are short. The choice depends on how the rollout was sampled and not on the
    selected rows, because workers that share a model must run the same number of forward passes.
    """
    # Recomputation for the backward pass would append to the cache twice.
    if rollout.copies == 1 or backbone.decoder.recomputes:
        return before_response(backbone.hidden(rollout.ids_BT, rollout.mask_BT), rollout)
    columns = rollout.prompt_ids_BP.shape[1]
    prompts_UP, prompt_of_B = torch.unique(
        torch.cat((rollout.prompt_ids_BP, rollout.prompt_mask_BP), dim=1),
        dim=0,
        return_inverse=True,
    )
    cache = KeyValueCache(rollout.ids_BT.shape[1])
    prompt_UPD = backbone.hidden(prompts_UP[:, :columns], prompts_UP[:, columns:], cache)
    first_B1D = prompt_UPD[:, -1:][prompt_of_B]
    later = rollout.response_ids_BR.shape[1] - 1
    # At least one column, because responses of another worker may be longer.
    read = max(1, later)
    # The cache is copied before it grows: inputs of a forward pass must not change before its
    # backward pass.
    later_BRD = backbone.hidden(
        rollout.response_ids_BR[:, :read],
        rollout.mask_BT[:, : columns + read],
        cache.take(prompt_of_B),
    )
    return torch.cat((first_B1D, later_BRD[:, :later]), dim=1)


def before_response(state_BT: Tensor, rollout: Rollout) -> Tensor:
    """Return the column before each response token, [B, R, ...].

    These states predict the tokens, and the critic values them.
    """
    prompt_columns = rollout.prompt_ids_BP.shape[1]
    return state_BT[:, prompt_columns - 1 : -1]
