"""Responses of a policy, with everything that PPO and GRPO must know of how they were sampled.

Shapes: B rows (prompts x samples), P prompt columns (padded on the left), R response columns
    (padded on the right),
V vocabulary, D hidden. Every row draws from its own seed, so it does not depend on its neighbours
in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from training.decoding.rows import Rows, steps, stop_at
from training.decoding.sampling import choose, row_noise
from training.model.backbone import Backbone
from training.model.cache import KeyValueCache
from training.rl.log_probs import chosen_log_probs, in_place
from training.rl.losses import token_log_probs


@dataclass(frozen=True)
class Rollout:
    """response_mask is 1 up to and including the stop token. log_probs are the sampler's, at its
    temperature. copies: responses that were sampled to each prompt; with more than one, whoever
    reads the rollout reads each prompt once.

    tasks: what each row's prompt refers to in the data file, for verifiers; the stage fills it in,
        engines know no data.
    """

    prompt_ids_BP: Tensor
    prompt_mask_BP: Tensor
    response_ids_BR: Tensor
    response_mask_BR: Tensor
    log_probs_BR: Tensor
    ended_B: Tensor  # True where a stop token was sampled
    version: str
    tasks: tuple[str, ...] = ()
    copies: int = 1

    @property
    def ids_BT(self) -> Tensor:
        """Prompt and response."""
        return torch.cat((self.prompt_ids_BP, self.response_ids_BR), dim=1)

    @property
    def mask_BT(self) -> Tensor:
        """Real tokens of prompt and response."""
        return torch.cat((self.prompt_mask_BP, self.response_mask_BR), dim=1)

    def rows(self, index: Tensor) -> Rollout:
        """These rows only. index: on the processor."""
        tasks = tuple(self.tasks[row] for row in index.tolist()) if self.tasks else ()
        return replace(
            self, tasks=tasks, **{name: tensor[index] for name, tensor in self._tensors().items()}
        )

    def to(self, device: torch.device) -> Rollout:
        """The same there."""
        return replace(
            self, **{name: tensor.to(device) for name, tensor in self._tensors().items()}
        )

    def read(self, decode: Callable[[Sequence[int]], str], most: int) -> list[tuple[str, str]]:
        """The first prompts, so many at most, each with its first response, as people read them."""
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
    """What an engine is request: n responses to each prompt. seeds: one a prompt."""

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
        """The arguments of RolloutEngine.sample."""
        return cls(tuple(map(tuple, token_ids)), n, max_new, temperature, tuple(seeds))

    def rows(self, these: slice) -> SampleRequest:
        """These prompts only."""
        return SampleRequest(
            self.token_ids[these], self.n, self.max_new, self.temperature, self.seeds[these]
        )

    def of_engine(self, engine: RolloutEngine) -> Rollout:
        """The engine's answer."""
        return engine.sample(self.token_ids, self.n, self.max_new, self.temperature, self.seeds)


class RolloutEngine(Protocol):
    """Whatever samples: the policy in this process, or a model server behind an adapter. Token ids
    in, token ids out.
    """

    def sample(
        self,
        token_ids: Sequence[Sequence[int]],
        n: int,
        max_new: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> Rollout:
        """n responses to each prompt, in prompt order.

        Args:
            max_new: tokens, the stop token included.
            temperature: 0 is greedy. No top-p or top-k: log-probs must be those of the distribution
                sampled from.
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
        self,
        token_ids: Sequence[Sequence[int]],
        n: int,
        max_new: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> Rollout:
        """See RolloutEngine."""
        rows = Rows(self.backbone, token_ids, max_new, copies=n)
        prompt_ids_BP, prompt_mask_BP = rows.ids_BS, rows.mask_BS
        noise_BR = row_noise(seeds, n, max_new).to(prompt_ids_BP.device)

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


def response_log_probs(
    backbone: Backbone, rollout: Rollout, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probs of the response tokens as the trainer computes them, [B, R], 0 where masked; and
    logits_NV of the real ones.

    Every policy term uses these, never the sampler's own, so that the first ratio is exactly 1.
    """
    hidden_BRD = states_before_response(backbone, rollout)
    mask_BR, decoder, targets_BR = (
        rollout.response_mask_BR,
        backbone.decoder,
        rollout.response_ids_BR,
    )
    real = mask_BR.nonzero(
        as_tuple=True
    )  # once: an accelerator is waited for, to know how many there are
    log_probs_N, logits_NV = chosen_log_probs(decoder, hidden_BRD, targets_BR, real, temperature)
    return in_place(log_probs_N, real, mask_BR.shape), logits_NV


def states_before_response(backbone: Backbone, rollout: Rollout) -> Tensor:
    """Hidden states that predict each response token, [B, R, D]. PolicyCopies of a prompt share its
    reading, with its gradient: half of the tokens and more are prompts' where responses are short.
    Which way is taken follows from how it was sampled, not from the rows that are left: workers
    that share a model must make equally many forwards.
    """
    if (
        rollout.copies == 1 or backbone.decoder.recomputes
    ):  # what is computed again cannot be appended again
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
    read = max(
        1, later
    )  # one column even where it predicts nothing: another worker's responses may be longer
    # Copied before it grows: what a forward has read must not change before its gradient is taken.
    later_BRD = backbone.hidden(
        rollout.response_ids_BR[:, :read],
        rollout.mask_BT[:, : columns + read],
        cache.take(prompt_of_B),
    )
    return torch.cat((first_B1D, later_BRD[:, :later]), dim=1)


def before_response(state_BT: Tensor, rollout: Rollout) -> Tensor:
    """The column before each response token, [B, R, ...]: what predicts it, and the state that the
    critic values.
    """
    prompt_columns = rollout.prompt_ids_BP.shape[1]
    return state_BT[:, prompt_columns - 1 : -1]
