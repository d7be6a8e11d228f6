"""Samplers apart from the trainer: when they get which weights, and how their parts become one
rollout. Where they run is cluster/'s.

Which weights sample an update is a function of the update and the config alone, so a resumed run
asks what the killed one request.
Shapes: B rows, P prompt columns, R response columns.
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
from training.optim.ranks import Ranks
from training.rl.correction import StaleRolloutError, version_of
from training.rl.networks import Sources
from training.rl.rollout import Rollout, RolloutEngine, SampleRequest

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class SamplingPlan:
    """What samplers must know of a run. request: what this worker asks in an update. ahead: whether
    the next update is sampled while one is learned from. drained_every_updates: an update after so
    many is sampled by the newest weights all the same.
    """

    made_of: Sources
    stop_ids: tuple[int, ...]
    updates: int
    request: Callable[[int], SampleRequest]
    ahead: bool = False
    drained_every_updates: int = 1

    def weights_of(self, update: int) -> int:
        """How many updates lie behind the weights that sample this one. Checkpoints keep no older
        weights, so an update that can follow one takes those of the checkpoint.
        """
        return update - 1 if self.ahead and update % self.drained_every_updates else update


class PolicyCopies(Protocol):
    """PolicyCopies of the policy in other processes."""

    def take(self, version: str, weights: Weights) -> None:
        """From now on `version` can be request. Every worker calls this; the first one alone has
        weights.
        """

    def begin(self, request: SampleRequest, version: str) -> Callable[[], Rollout]:
        """Let `version` sample; the answer waits until it is there."""


class Samplers(Protocol):
    """Whoever samples for a policy that learns."""

    def open(self, orders: SamplingPlan, ranks: Ranks) -> PolicyCopies:
        """PolicyCopies of this run's policy."""


class RemoteSampling:
    """The engine of each update, in order. Every worker calls it equally often."""

    def __init__(
        self, copies: PolicyCopies, weights: Callable[[], Weights], orders: SamplingPlan
    ) -> None:
        """weights: those of the policy now, on the first worker; nothing on the others. Every
        worker is request for them.
        """
        self._copies, self._weights, self._plan = copies, weights, orders
        self._begun: dict[int, _Begun] = {}

    def __call__(self, update: int) -> RolloutEngine:
        """Weights go out where somebody is to sample with them."""
        coming = range(update, min(update + 2, self._plan.updates))
        due = [u for u in coming if self._plan.weights_of(u) == update]
        if update not in self._begun and update not in due:
            due.insert(0, update)  # resumed where the config that was killed had no checkpoint
        if due:
            self._copies.take(version_of(update), self._weights())
        for u in due:
            request = self._plan.request(u)
            self._begun[u] = _Begun(request, self._copies.begin(request, version_of(update)))
        return self._begun.pop(update)


@dataclass(frozen=True)
class _Begun:
    """A rollout under way, which can be request for as it was begun."""

    request: SampleRequest
    answer: Callable[[], Rollout]

    def sample(
        self,
        token_ids: Sequence[Sequence[int]],
        n: int,
        max_new: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> Rollout:
        """See RolloutEngine."""
        if SampleRequest.of(token_ids, n, max_new, temperature, seeds) != self.request:
            raise ValueError("rollout: other prompts are request for than were begun ahead")
        return self.answer()


def split(request: SampleRequest, most: int) -> list[SampleRequest]:
    """At most `most` parts of nearly equal size, in order. They do not depend on who lives: a part
    decides what its rows are, bit by bit, as a product's rounding can depend on the number of its
    rows.
    """
    parts = min(most, len(request.token_ids))
    cuts = [len(request.token_ids) * part // parts for part in range(parts + 1)]
    return [request.rows(slice(begin, end)) for begin, end in pairwise(cuts)]


def join(parts: Sequence[Rollout]) -> Rollout:
    """One rollout, filled up as if its rows had been sampled together.

    Raises:
        StaleRolloutError: different weights sampled them.
    """
    versions = sorted({part.version for part in parts})
    if len(versions) > 1:
        raise StaleRolloutError(
            f"rollout of {' and '.join(versions)}: its parts are of different weights",
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
