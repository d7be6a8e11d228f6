"""What is done about a sampler that is not the trainer: its log-probs differ by number type, by
kernels, or because its weights are older.

Shapes: B rows, R response columns.
"""

from __future__ import annotations

from torch import Tensor

from training.errors import DetailedError
from training.rl.losses import LOG_RATIO_LIMIT, k3

VERSION = "update-"


class StaleRolloutError(DetailedError, ValueError):
    """A rollout was sampled by weights that are older than allowed; the text names both versions."""

    reason = "STALE_ROLLOUT"


def truncated_importance(
    old_log_probs_BR: Tensor, sampler_log_probs_BR: Tensor, cap: float
) -> Tensor:
    """min(p_trainer / p_sampler, cap) of each token, without gradient, [B, R]: what its part of the
    loss is multiplied by (Ionides 2008; for language models Yao et al., "On the Rollout-Training
    Mismatch in Modern RL Systems", 2025). p_trainer is of the weights *before* the update, so the
    surrogate's own ratio stays new / old.
    """
    log_ratio_BR = (old_log_probs_BR - sampler_log_probs_BR).clamp(
        -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT
    )
    return log_ratio_BR.exp().clamp(max=cap).detach()


def mismatch(
    old_log_probs_BR: Tensor, sampler_log_probs_BR: Tensor, mask_BR: Tensor
) -> dict[str, Tensor]:
    """Of each real token, how far the trainer is from the sampler: |difference| in nats, k3 (the KL
    of sampler to trainer).
    """
    real_BR = mask_BR.bool()
    old_N, sampler_N = old_log_probs_BR[real_BR], sampler_log_probs_BR[real_BR]
    return {"sampler_mismatch": (old_N - sampler_N).abs(), "sampler_kl": k3(sampler_N, old_N)}


def version_of(update: int) -> str:
    """The name of the weights that update `update` samples with: so many updates are behind them."""
    return f"{VERSION}{update}"


def refuse_stale(version: str, update: int, most_updates: int) -> None:
    """Raises StaleRolloutError where the sampler's weights are more than `most_updates` older than
    the trainer's.
    """
    number = version.removeprefix(VERSION)
    if not version.startswith(VERSION) or not number.isdecimal():
        raise StaleRolloutError(
            f"rollout of {version!r}: not weights of this run, which are named {version_of(update)}",
            field="version",
            reason="UNKNOWN",
            limit=version_of(update),
        )
    if not 0 <= update - int(number) <= most_updates:
        raise StaleRolloutError(
            f"max_staleness_updates: rollout of {version} in update {update}, at most {most_updates} may lie between",
            field="max_staleness_updates",
            limit=f"at most {most_updates}",
        )
