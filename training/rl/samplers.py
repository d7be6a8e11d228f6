"""Sampling in other processes than the trainer: schedule of weights, and merging of rollouts.

The processes themselves are in training/cluster.

The weights that sample an update depend only on the update and the config, so a resumed run
requests the same samples as the interrupted one. Shapes: B rows, P prompt columns, R response
columns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from training.data.tensors import FILL_ID
from training.model.backbone import Backbone
from training.rl.correction import StaleRolloutError, version_of
from training.rl.networks import Sources
from training.rl.rollout import Rollout, RolloutEngine, SampleRequest
from training.runtime.ranks import Ranks

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class SamplingPlan:
    """Parameters of a run that samplers need.

    Attributes:
        request: samples that this worker requests in an update.
        ahead: sample the next update while the current one is learned from.
        drained_every_updates: after this many updates, an update is sampled with the newest weights
            even with `ahead`.
    """

    sources: Sources
    stop_ids: tuple[int, ...]
    updates: int
    request: Callable[[int], SampleRequest]
    ahead: bool = False
    drained_every_updates: int = 1
    policy: Backbone | None = None
    fixed_prompts: Sequence[Sequence[int]] = ()
    window_tokens: int = 0

    def weights_of(self, update: int) -> int:
        """Return the number of updates after which the weights for this update exist.

        Checkpoints contain no older weights, so an update that can follow a checkpoint uses the
        weights of the checkpoint.
        """
        return update - 1 if self.ahead and update % self.drained_every_updates else update


class PolicyCopies(Protocol):
    """Copies of the policy in other processes."""

    def take(self, version: str, weights: Weights) -> None:
        """Make weights available under `version`.

        Every worker calls this; only the first worker has weights.
        """

    def begin(self, request: SampleRequest, version: str) -> Callable[[], Rollout]:
        """Start sampling with `version`; the returned function waits for the rollout."""


class Samplers(Protocol):
    """Source of policy copies for a run."""

    def open(self, plan: SamplingPlan, ranks: Ranks) -> PolicyCopies:
        """Return copies of the policy of this run."""


class RemoteSampling:
    """Rollout engine of each update, in order.

    Every worker makes the same number of calls.
    """

    def __init__(
        self, copies: PolicyCopies, weights: Callable[[], Weights], plan: SamplingPlan
    ) -> None:
        """Create the engines of a run.

        Args:
            weights: returns the current weights of the policy on the first worker, nothing on the
                others. It is called on every worker.
        """
        self._copies, self._weights, self._plan = copies, weights, plan
        self._pending: dict[int, _PendingRollout] = {}

    def __call__(self, update: int) -> RolloutEngine:
        """Send weights if needed, start due rollouts, and return the engine of the update."""
        coming = range(update, min(update + 2, self._plan.updates))
        due = [u for u in coming if self._plan.weights_of(u) == update]
        if update not in self._pending and update not in due:
            due.insert(0, update)  # the interrupted config had no checkpoint here
        if due:
            self._copies.take(version_of(update), self._weights())
        for u in due:
            request = self._plan.request(u)
            self._pending[u] = _PendingRollout(
                request, self._copies.begin(request, version_of(update))
            )
        return self._pending.pop(update)


@dataclass(frozen=True)
class _PendingRollout:
    """Rollout engine for a rollout that has been started."""

    request: SampleRequest
    answer: Callable[[], Rollout]

    def sample(self, request: SampleRequest) -> Rollout:
        """Implement `RolloutEngine.sample`; the request must be the one that was started."""
        if request != self.request:
            raise ValueError("rollout: the request differs from the one that was started ahead")
        return self.answer()


def split(request: SampleRequest, most: int) -> list[SampleRequest]:
    """Split a request into at most `most` parts of nearly equal size, in order.

    The parts do not depend on the live samplers, because the number of rows in a part can affect
    rounding in products, and so the sampled rows.
    """
    parts = min(most, len(request.token_ids))
    cuts = [len(request.token_ids) * part // parts for part in range(parts + 1)]
    return [request.rows(slice(begin, end)) for begin, end in pairwise(cuts)]


def join(parts: Sequence[Rollout]) -> Rollout:
    """Merge partial rollouts into one, padded as if sampled together.

    Raises:
        StaleRolloutError: the parts were sampled with different weights.
    """
    versions = sorted({part.version for part in parts})
    if len(versions) > 1:
        raise StaleRolloutError(
            f"rollout of {' and '.join(versions)}: its parts were sampled with different weights",
            field="version",
            reason="MISMATCH",
        )
    prompts = max(part.prompt_ids_BP.shape[1] for part in parts)
    responses = max(part.response_ids_BR.shape[1] for part in parts)

    def on_the_left(tensors: Sequence[Tensor], fill: int) -> Tensor:
        return torch.cat(
            [F.pad(tensor, (prompts - tensor.shape[1], 0), value=fill) for tensor in tensors]
        )

    def on_the_right(tensors: Sequence[Tensor], fill: float) -> Tensor:
        return torch.cat(
            [F.pad(tensor, (0, responses - tensor.shape[1]), value=fill) for tensor in tensors]
        )

    return Rollout(
        prompt_ids_BP=on_the_left([part.prompt_ids_BP for part in parts], FILL_ID),
        prompt_mask_BP=on_the_left([part.prompt_mask_BP for part in parts], 0),
        response_ids_BR=on_the_right([part.response_ids_BR for part in parts], FILL_ID),
        response_mask_BR=on_the_right([part.response_mask_BR for part in parts], 0),
        log_probs_BR=on_the_right([part.log_probs_BR for part in parts], 0.0),
        ended_B=torch.cat([part.ended_B for part in parts]),
        version=versions[0],
        copies=parts[0].copies,
    )
