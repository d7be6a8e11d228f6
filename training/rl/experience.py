"""What one update learns from: a rollout judged by everybody, turned into advantages and returns.

Shapes: B rows, R response columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from training.optim.ranks import Ranks
from training.rl.advantages import explained_variance, gae, whiten
from training.rl.losses import token_entropy
from training.rl.players import Players
from training.rl.rewards import response_scores, sequence_kl, token_rewards
from training.rl.rollout import Rollout, before_response, response_log_probs

Score = Callable[[Rollout], Tensor]
"""Normalised scores of a rollout's responses, [B]."""


@dataclass(frozen=True)
class RewardShape:
    """How scores and KL become rewards, and rewards become advantages."""

    missing_eos_penalty: float = 1.0
    score_clip: float = 5.0
    discount: float = 1.0
    gae_lambda: float = 0.95


@dataclass(frozen=True)
class Experience:
    """Everything is [B, R] and 0 where masked; advantages are whitened over the batch of all ranks."""

    rollout: Rollout
    old_log_probs_BR: Tensor
    old_values_BR: Tensor
    advantages_BR: Tensor
    returns_BR: Tensor
    figures: dict[str, float]  # means over all ranks

    def rows(self, index: Tensor) -> Experience:
        """These rows only."""
        return Experience(
            rollout=self.rollout.rows(index),
            old_log_probs_BR=self.old_log_probs_BR[index],
            old_values_BR=self.old_values_BR[index],
            advantages_BR=self.advantages_BR[index],
            returns_BR=self.returns_BR[index],
            figures=self.figures,
        )


@dataclass(frozen=True)
class Judging:
    """temperature: of the sampling. rows: responses in one forward, which bounds the memory for logits."""

    temperature: float
    rows: int
    reward: RewardShape
    ranks: Ranks


@torch.no_grad()
def judge(players: Players, score: Score, rollout: Rollout, judging: Judging, beta: float) -> Experience:
    """Log-probs recomputed by the trainer, reference, values and scores; then rewards, advantages and returns."""
    mask_BR, shape, ranks = rollout.response_mask_BR, judging.reward, judging.ranks
    parts = [
        opinions(players, score, rollout.rows(rows), judging.temperature)
        for rows in torch.split(torch.arange(mask_BR.shape[0]), judging.rows)
    ]
    log_probs_BR, reference_BR, values_BR, scores_B, entropy_N = (torch.cat(part) for part in zip(*parts, strict=True))
    shaped_B = response_scores(scores_B, rollout.ended_B, shape.missing_eos_penalty, shape.score_clip)
    rewards_BR = token_rewards(shaped_B, log_probs_BR, reference_BR, mask_BR, beta)
    advantages_BR, returns_BR = gae(rewards_BR, values_BR, mask_BR, shape.discount, shape.gae_lambda)
    figures = batch_means(
        {
            "score": scores_B,
            "reward": rewards_BR.sum(1),
            "kl": sequence_kl(log_probs_BR, reference_BR, mask_BR),
            "eos_rate": rollout.ended_B.float(),
            "response_tokens": mask_BR.sum(1).float(),
            "entropy": entropy_N,
            "sampler_mismatch": (log_probs_BR - rollout.log_probs_BR)[mask_BR.bool()].abs(),
        },
        ranks,
    )
    figures["explained_variance"] = explained_variance(values_BR, returns_BR, mask_BR)
    return Experience(rollout, log_probs_BR, values_BR, whiten(advantages_BR, mask_BR, ranks), returns_BR, figures)


def opinions(
    players: Players, score: Score, rollout: Rollout, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Policy's and reference's log-probs, values [B, R]; scores [B]; entropy of each real token's distribution [N]."""
    log_probs_BR, logits_NV = response_log_probs(players.policy, rollout, temperature)
    reference_BR, _ = response_log_probs(players.reference, rollout, temperature)
    values_BT = players.critic.everywhere(rollout.ids_BT, rollout.mask_BT)
    values_BR = before_response(values_BT, rollout) * rollout.response_mask_BR
    return log_probs_BR, reference_BR, values_BR, score(rollout), token_entropy(logits_NV, temperature)


def batch_means(values: dict[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """Mean of each over the entries of all ranks."""
    sums = ranks.sum(torch.tensor([[float(v.sum()), float(v.numel())] for v in values.values()]))
    return {name: total / count for name, (total, count) in zip(values, sums.tolist(), strict=True)}
