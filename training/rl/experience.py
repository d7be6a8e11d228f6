"""Experience of an update: a rollout with scores and log-probs.

PPO and GRPO compute advantages from it in different ways.

Shapes: B rows, R response columns, N real response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from training.losses.log_probs import token_entropy
from training.model.backbone import Backbone
from training.rl.correction import mismatch, truncated_importance
from training.rl.rewards import sequence_kl
from training.rl.rollout import Rollout, response_log_probs
from training.rl.scores import FigureSource, Score
from training.runtime.ranks import Ranks


@dataclass(frozen=True)
class ScoringConfig:
    """Settings for the scores of a rollout.

    Attributes:
        rows: responses per forward pass, which limits the memory for logits.
        importance_cap: None if the sampler is exact.
        gold: second judge, which is only measured.
        verifier: source of figures about the scores, if available.
        keeps_graph: the update is a single step, so this forward pass is also used for learning.
    """

    score: Score
    temperature: float
    rows: int
    ranks: Ranks
    importance_cap: float | None = None
    gold: Score | None = None
    verifier: FigureSource | None = None
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
    figures = batch_means(values, scoring.ranks) | _verdicts(scoring)
    asked_BR = None if reference is None else reference_BR
    return RolloutScores(log_probs_BR, kept_BR, asked_BR, scores_B, correction_BR, figures)


def fresh_log_probs(policy: Backbone, part: Experience, temperature: float) -> Tensor:
    """Return the current log-probs of the policy, with their graph.

    The forward pass of the scoring is reused if the policy has not changed since.
    """
    if part.fresh_BR is not None:
        return part.fresh_BR
    log_probs_BR, _ = response_log_probs(policy, part.rollout, temperature)
    return log_probs_BR


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


def _verdicts(scoring: ScoringConfig) -> dict[str, float]:
    """Return the means of the verifier's figures over the ranks.

    All ranks score the same number of rows. Of ranks with the same rows, only one has called the
    verifier.
    """
    if scoring.verifier is None:
        return {}
    shares = scoring.verifier.take_figures()
    sums = scoring.ranks.sum(scoring.ranks.broadcast(torch.tensor(list(shares.values()))))
    return {
        name: total / scoring.ranks.data_size
        for name, total in zip(shares, sums.tolist(), strict=True)
    }


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
        # The index drops the logits at once.
        reference_BR = response_log_probs(reference, rollout, scoring.temperature)[0]
    with torch.set_grad_enabled(scoring.keeps_graph):
        log_probs_BR, logits_NV = response_log_probs(policy, rollout, scoring.temperature)
    return (
        log_probs_BR,
        reference_BR,
        scores_B,
        token_entropy(logits_NV, scoring.temperature),
        gold_B,
    )
