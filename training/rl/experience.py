"""Experience of an update: a rollout with scores and log-probs.

PPO and GRPO compute advantages from it in different ways. Both learn from it in shuffled
minibatches. Ranks with fewer live rows fill their minibatches with filtered rows, because every
rank must take the same number of steps with the same shapes.

Shapes: B rows, R response columns, N real response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.losses.policy import PolicyLoss
from training.model.backbone import Backbone
from training.rl.advantages import sequence_kl
from training.rl.correction import mismatch, truncated_importance
from training.rl.rollout import Rollout, response_figures, response_log_probs
from training.rl.scores import FigureSource, Score, is_verifiable
from training.runtime.ranks import Ranks


@dataclass(frozen=True)
class ScoringConfig:
    """Settings for the scores of a rollout.

    Attributes:
        rows: responses per forward pass, which limits the memory for logits.
        importance_cap: None if the sampler is exact.
        gold: second judge, which is only measured.
        verifier: source of figures about the scores, if available.
        verifiable_scale: factor of the verifier's scores if a reward model scores other rows; None
            if all rows have one source of scores.
        keeps_graph: the update is a single step, so this forward pass is also used for learning.
    """

    score: Score
    temperature: float
    rows: int
    ranks: Ranks
    importance_cap: float | None = None
    gold: Score | None = None
    verifier: FigureSource | None = None
    verifiable_scale: float | None = None
    keeps_graph: bool = False


@dataclass(frozen=True)
class RolloutScores:
    """Log-probs and scores of a rollout.

    [B, R] are 0 where masked.

    Attributes:
        fresh_BR: log_probs_BR with its graph; None if the graph was not kept.
        reference_BR: None without a reference.
        figures: means over all ranks.
    """

    log_probs_BR: Tensor
    fresh_BR: Tensor | None
    reference_BR: Tensor | None
    scores_B: Tensor
    correction_BR: Tensor
    figures: dict[str, float]


@dataclass(frozen=True)
class Experience:
    """Data of an update.

    [B, R] are 0 where masked.

    Attributes:
        mask_BR: tokens to learn from: all tokens of a response or none.
        scores_B: for logs of samples.
        fresh_BR: as in RolloutScores.
    """

    rollout: Rollout
    mask_BR: Tensor
    old_log_probs_BR: Tensor
    advantages_BR: Tensor
    correction_BR: Tensor
    scores_B: Tensor
    fresh_BR: Tensor | None

    def rows(self: E, index: Tensor) -> E:
        """Return the given rows.

        `index` is on the CPU.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            rollout=self.rollout.rows(index),
            **{name: value[index] for name, value in values.items() if isinstance(value, Tensor)},
        )


E = TypeVar("E", bound=Experience)


@torch.no_grad()
def score_rollout(
    policy: Backbone, reference: Backbone | None, rollout: Rollout, scoring: ScoringConfig
) -> RolloutScores:
    """Compute log-probs of policy and reference, scores, and figures of a rollout."""
    parts = [
        _part(policy, reference, rollout.rows(rows), scoring)
        for rows in row_chunks(rollout, scoring.rows)
    ]
    with torch.set_grad_enabled(scoring.keeps_graph):
        fresh_BR, reference_BR, scores_B, entropy_N, gold_B = (
            torch.cat(part) for part in zip(*parts, strict=True)
        )
    log_probs_BR, kept_BR = fresh_BR.detach(), fresh_BR if scoring.keeps_graph else None
    mask_BR = rollout.response_mask_BR
    values = {
        "score": scores_B,
        "eos_rate": rollout.ended_B.float(),
        "response_tokens": mask_BR.sum(1).float(),
        "entropy": entropy_N,
        **mismatch(log_probs_BR, rollout.log_probs_BR, mask_BR),
    }
    correction_BR = torch.ones_like(log_probs_BR)
    if scoring.importance_cap is not None:
        correction_BR = truncated_importance(
            log_probs_BR, rollout.log_probs_BR, scoring.importance_cap
        )
        real_N = correction_BR[mask_BR.bool()]
        values |= {
            "importance": real_N,
            "importance_capped": (real_N >= scoring.importance_cap).float(),
        }
    if reference is not None:
        values["kl"] = sequence_kl(log_probs_BR, reference_BR, mask_BR)
    if scoring.gold is not None:
        values["gold_score"] = gold_B
    verified = len(scores_B)
    if scoring.verifiable_scale is not None:
        by_task_B = is_verifiable(rollout)
        verified = int(by_task_B.sum())
        values["preference_score"] = scores_B[~by_task_B]
        values["verifiable_score"] = scores_B[by_task_B] / scoring.verifiable_scale
        if scoring.gold is not None:
            values["gold_score"] = gold_B[~by_task_B]  # no reward model judges tasks
    figures = batch_means(values, scoring.ranks) | _verdicts(scoring, verified)
    asked_BR = None if reference is None else reference_BR
    return RolloutScores(log_probs_BR, kept_BR, asked_BR, scores_B, correction_BR, figures)


def fresh_log_probs(policy: Backbone, part: Experience, temperature: float) -> Tensor:
    """Return the current log-probs of the policy, with their graph.

    The forward pass of the scoring is reused if the policy has not changed since.
    """
    if part.fresh_BR is not None:
        return part.fresh_BR
    return response_log_probs(policy, part.rollout, temperature)


def row_chunks(rollout: Rollout, rows: int) -> Iterator[Tensor]:
    """Yield the row numbers of each forward pass over a rollout, on the CPU."""
    yield from torch.split(torch.arange(rollout.response_mask_BR.shape[0], device="cpu"), rows)


def batch_means(values: dict[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """Return the mean of each tensor over the entries of all ranks."""
    counts = torch.tensor([float(value.numel()) for value in values.values()])
    sums = ranks.sum(
        torch.stack(
            (torch.stack([value.sum().float() for value in values.values()]), counts), dim=1
        )
    )
    return {name: total / count for name, (total, count) in zip(values, sums.tolist(), strict=True)}


def _verdicts(scoring: ScoringConfig, rows: int) -> dict[str, float]:
    """Return the means of the verifier's figures over the rows of all ranks.

    Of ranks with the same rows, only one has called the verifier.

    Args:
        rows: rows of this rank that the verifier has scored.
    """
    if scoring.verifier is None:
        return {}
    shares = scoring.verifier.take_figures()
    here = scoring.ranks.broadcast(torch.tensor(list(shares.values())))
    *sums, count = scoring.ranks.sum(torch.cat((here, torch.ones(1))) * rows).tolist()
    return {name: total / count for name, total in zip(shares, sums, strict=True)}


def _part(
    policy: Backbone, reference: Backbone | None, rollout: Rollout, scoring: ScoringConfig
) -> tuple[Tensor, ...]:
    """Score some rows of a rollout.

    The policy's graph, if kept, is created last, so no other forward pass needs memory at the same
    time.
    """
    scores_B = scoring.score(rollout)
    gold_B = torch.zeros_like(scores_B) if scoring.gold is None else scoring.gold(rollout)
    reference_BR = torch.zeros(rollout.response_mask_BR.shape)
    if reference is not None:
        reference_BR = response_log_probs(reference, rollout, scoring.temperature)
    with torch.set_grad_enabled(scoring.keeps_graph):
        log_probs_BR, entropy_N = response_figures(policy, rollout, scoring.temperature)
    return log_probs_BR, reference_BR, scores_B, entropy_N, gold_B


def minibatches(
    experience: E, epochs: int, rows: int, seeds: tuple[int, int], ranks: Ranks
) -> Iterator[E]:
    """Yield the minibatches of all epochs, each epoch in its own order.

    Rows without tokens to learn from are left out.

    Args:
        rows: rows of a minibatch, all workers together.
        seeds: seed of the run, and number of the update.
    """
    live_B = experience.mask_BR.any(dim=1)
    for epoch in range(epochs):
        seed = seed_of(seeds[0], "minibatches", seeds[1], epoch)
        for index in shuffled_rows(live_B, rows // ranks.data_size, seed, ranks):
            yield experience.rows(index)


def shuffled_rows(live_B: Tensor, rows: int, seed: int, ranks: Ranks) -> Iterator[Tensor]:
    """Yield row numbers of this rank per minibatch, of nearly equal size, on the CPU.

    Nothing is yielded if no rank has a live row.

    Args:
        live_B: True for each row with a learning signal.
        rows: maximum rows of a minibatch on this rank.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, ranks.data_rank))
    live_B = live_B.cpu()
    order_B = torch.randperm(len(live_B), generator=generator, device="cpu")
    order_B = order_B[(~live_B[order_B]).long().argsort(stable=True)]  # live rows first
    most = max_over_ranks(int(live_B.sum()), ranks)
    steps = -(-most // rows)
    for step in range(steps):
        yield order_B[:most][step::steps]


def max_over_ranks(count: int, ranks: Ranks) -> int:
    """Return the highest count of any rank, computed with a sum over one slot per rank."""
    counts = torch.zeros(ranks.data_size)
    counts[ranks.data_rank] = count
    return int(ranks.sum(counts).max())


class MinibatchSums:
    """Sums over the minibatches of an update, over all ranks.

    Args:
        losses: names of the losses that every minibatch has.
    """

    def __init__(self, losses: Sequence[str], ranks: Ranks) -> None:
        self._losses, self._ranks = losses, ranks
        # In order: tokens, clipped tokens, approximate KL, losses.
        self._totals = torch.zeros(3 + len(losses))
        self._last = self._totals
        self.count = 0  # minibatches

    def add(self, mask_BR: Tensor, policy: PolicyLoss, losses: Sequence[Tensor]) -> None:
        """Add a minibatch. Every rank calls this method."""
        numbers = (mask_BR.sum(), policy.clipped_tokens, policy.approximate_kl_sum, *losses)
        here = torch.stack([number.detach().float() for number in numbers])
        self._last = self._ranks.sum(here)
        self._totals, self.count = self._totals + self._last, self.count + 1

    def kl_exceeds(self, nats: float | None) -> bool:
        """Return True if the KL of new to old policy is above `nats` per token.

        The KL is that of the last minibatch; None is no limit.
        """
        return nats is not None and float(self._last[2] / self._last[0]) > nats

    def figures(self) -> dict[str, float]:
        """Return means: each loss over minibatches, clip_fraction and approximate_kl over tokens.

        Also the number of minibatches.
        """
        tokens, clipped, approximate_kl, *losses = self._totals.tolist()
        means = {
            name: total / max(1, self.count)
            for name, total in zip(self._losses, losses, strict=True)
        }
        return means | {
            "clip_fraction": clipped / max(1, tokens),
            "approximate_kl": approximate_kl / max(1, tokens),
            "minibatches": float(self.count),
        }
