"""Corrections for samplers that differ from the trainer in number type, kernels or age of weights.

Shapes: B rows, R response columns.
"""

from __future__ import annotations

from torch import Tensor

from training.errors import DetailedError
from training.losses.policy import LOG_RATIO_LIMIT, k3

VERSION = "update-"


class StaleRolloutError(DetailedError, ValueError):
    """A rollout was sampled with weights that are too old; the text names both versions."""

    reason = "STALE_ROLLOUT"


def truncated_importance(
    old_log_probs_BR: Tensor, sampler_log_probs_BR: Tensor, cap: float
) -> Tensor:
    """Return min(p_trainer / p_sampler, cap) of each token, without gradient, [B, R].

    The loss of each token is multiplied by this factor (Ionides 2008; for language models Yao et
    al., "On the Rollout-Training Mismatch in Modern RL Systems", 2025). p_trainer uses the weights
    *before* the update, so the ratio of the surrogate stays new / old.
    """
    log_ratio_BR = (old_log_probs_BR - sampler_log_probs_BR).clamp(
        -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT
    )
    return log_ratio_BR.exp().clamp(max=cap).detach()


def mismatch(
    old_log_probs_BR: Tensor, sampler_log_probs_BR: Tensor, mask_BR: Tensor
) -> dict[str, Tensor]:
    """Return the difference between trainer and sampler for each real token.

    The figures are |difference| in nats and k3, the KL of sampler to trainer.
    """
    real_BR = mask_BR.bool()
    old_N, sampler_N = old_log_probs_BR[real_BR], sampler_log_probs_BR[real_BR]
    return {"sampler_mismatch": (old_N - sampler_N).abs(), "sampler_kl": k3(sampler_N, old_N)}


def version_of(update: int) -> str:
    """Return the name of the weights after `update` updates, which sample that update."""
    return f"{VERSION}{update}"


def check_staleness(version: str, update: int, most_updates: int) -> None:
    """Check the age of the weights that sampled a rollout.

    Raises:
        StaleRolloutError: the weights are more than `most_updates` older than those of the trainer.
    """
    number = version.removeprefix(VERSION)
    if not version.startswith(VERSION) or not number.isdecimal():
        raise StaleRolloutError(
            f"rollout of {version!r}: not weights of this run, such as {version_of(update)}",
            field="version",
            reason="UNKNOWN",
            limit=version_of(update),
        )
    if not 0 <= update - int(number) <= most_updates:
        raise StaleRolloutError(
            f"max_staleness_updates: rollout of {version} in update {update}, "
            f"at most {most_updates} updates apart are allowed",
            field="max_staleness_updates",
            limit=f"at most {most_updates}",
        )
