"""Settings of rewards, the KL penalty, monitoring samples and served answers."""

from __future__ import annotations

from dataclasses import dataclass

from training.errors import ConfigError
from training.runtime.ranges import (
    Count,
    Fraction,
    FractionBelowOne,
    Limit,
    NonNegative,
    Positive,
    WeightCap,
    check_fields,
)

MAX_RELATIVE_ERROR = 0.2  # one update moves beta by at most 20 % of samples / horizon


@dataclass(frozen=True)
class RewardShape:
    """Settings for rewards from scores and KL, and for advantages from rewards.

    Attributes:
        missing_eos_penalty: subtracted from the score of a response that did not end by itself, at
            least 0
        score_clip: normalised scores are clipped to plus and minus this, above 0
        discount: discount factor of rewards per token (gamma), in [0, 1]
        gae_lambda: 0: use the next value of the critic, 1: use the observed rewards; in [0, 1]
    """

    missing_eos_penalty: NonNegative = 1.0
    score_clip: Limit = 5.0
    discount: Fraction = 1.0
    gae_lambda: Fraction = 0.95

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class KlConfig:
    """Weight of the KL penalty (beta), and the KL that it is adapted to, if any.

    Attributes:
        initial: what a nat of KL to the reference costs in reward (beta), at least 0
        target_nats: KL per response that beta is adapted to, above 0; none: beta is fixed
        horizon_samples: responses over which beta is adapted, at least 1; more: slower
    """

    initial: NonNegative = 0.05
    target_nats: Positive | None = None
    horizon_samples: Count = 2000

    def __post_init__(self) -> None:
        check_fields(self)
        if self.target_nats is not None and self.initial == 0:
            raise ConfigError(
                "initial: beta stays 0 if it starts at 0, so target_nats has no effect",
                field="initial",
                reason="CONFLICT",
            )


@dataclass(frozen=True)
class WatchConfig:
    """Sampling of responses at every checkpoint.

    The loss falls even if responses collapse, so it cannot show a collapse.

    Attributes:
        prompts: held-out prompts that are answered at each checkpoint, at least 1
        max_response_tokens: maximum tokens of each answer, at least 1
        length_floor_fraction: fraction of the mean answer length before training, below which
            training stops; in [0, 1)
        kl_ceiling_nats: KL to the reference, in nats per answer, above which training stops; above
            0
    """

    prompts: Count = 32
    max_response_tokens: Count = 64
    length_floor_fraction: FractionBelowOne = 0.25
    kl_ceiling_nats: Limit = 20.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class OffPolicyConfig:
    """Requirements for answers that a version sampled while it served users.

    Attributes:
        versions: versions whose answers may be used in addition to those of the starting model,
            separated by commas; none: all answers, also those without a sample
        mismatch_limit_nats: mean difference of a token's log-prob between the starting model here
            and as it was served, above 0
        importance_cap: maximum weight of an answer, min(p_start / p_served, cap), at least 1; only
            for answers sampled at top_p 1; none: every weight is 1, and the mismatch is only
            reported
    """

    versions: tuple[str, ...] | None = None
    # measured: 0.002 for nano on OpenVINO, 0.086 for the small model in 8 bits (docs/decisions)
    mismatch_limit_nats: Limit = 0.2
    importance_cap: WeightCap | None = None

    def __post_init__(self) -> None:
        check_fields(self)
