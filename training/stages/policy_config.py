"""Configuration of the stages that sample: PPO and GRPO.

This module does not import torch, like config.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from training.errors import ConfigError
from training.losses.normalisation import Normalisation
from training.optim.config import OptimizerConfig
from training.rl.alarms import Limits
from training.rl.config import MAX_RELATIVE_ERROR, KlConfig, RewardShape
from training.runtime.ranges import (
    Count,
    CountOrZero,
    FractionBelowOne,
    Limit,
    NonNegative,
    OpenFraction,
    Positive,
    Range,
    WeightCap,
    check_fields,
)
from training.serving.rollout_server import RolloutServer
from training.stages.config import StageConfig

FIRST_UPDATE = "sampling and scoring the first update"  # displayed: it may take minutes


@dataclass(frozen=True)
class SftMix:
    """Examples of SFT whose loss each minibatch lowers too, against the alignment tax.

    This is PPO-ptx (arXiv 2203.02155). data_path is as in SftConfig. Examples longer than a prompt
    and a response together are dropped.

    Attributes:
        data_path: a file of rows as `sft` reads them
        coefficient: factor of their loss in addition to the policy loss, above 0
        rows: examples per minibatch, all workers together; at least 1
    """

    data_path: Path
    coefficient: Positive = 0.1
    rows: Count = 8

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class VerifiableMix:
    """Prompts whose responses a verifier scores, among those that the reward model scores.

    Attributes:
        data_path: a file of prompts with tasks, as `tasks write` writes it
        share: share of the prompts of an update, rounded to whole prompts, at least one of each
            kind; in (0, 1)
        reward_scale: score of a right response, in units of the reward model's normalised score,
            above 0; without effect if GRPO standardises the scores of each prompt
    """

    data_path: Path
    share: OpenFraction = 0.25
    reward_scale: Positive = 1.0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PolicyConfig(StageConfig):
    """Configuration that PPO and GRPO share.

    data_path: rows {"messages": [...], "task": str = ""}, or another format that read_prompts
    converts. Scores come from the reward model, or from a verifier passed to the stage if there is
    no reward model; with `verifiable` from both. The reference is model_directory, unchanged.
    output_directory becomes a model directory. With `lora` all networks share the base weights.

    Attributes:
        updates: number of updates (sample, score, learn), at least 1
        prompts_per_update: prompts sampled in an update, all workers together; at least 1
        samples_per_prompt: responses to each prompt, at least 1; GRPO compares them and needs 2
        minibatch_rows: responses per optimizer step, all workers together; at least 1; divides
            prompts_per_update * samples_per_prompt
        epochs_per_update: passes over the responses of an update, at least 1
        early_stop_nats: KL of the new to the old policy, in nats per token, above which an update
            ends early; above 0; none: never
        max_prompt_tokens: tokens of a prompt, at least 1; longer contexts lose their oldest
            messages (fit_context), prompts that are still longer are dropped; both are counted
        max_response_tokens: tokens of a response, at least 1; longer responses are cut off
        temperature: sampling temperature, above 0; 1: the distribution of the policy
        importance_cap: maximum importance weight of a token for differences between trainer and
            sampler, at least 1; none: no difference
        max_staleness_updates: updates that the weights of remote samplers may lag behind, at least
            0; with 1 or more they work one update ahead
        rollout_server: model server that samples instead of the policy itself; none: the policy, or
            rollout actors
        judge_directory: a reward model for monitoring only: its score must not fall while the
            trained score rises; none: no monitoring
        judge_base_directory: base model of the judge; needed with judge_directory
        kl_ceiling_nats: KL to the reference, in nats per response, above which training stops;
            above 0; none: never
        length_floor_fraction: share of the mean response tokens of the first update below which
            training stops; in [0, 1)
        gold_drop: fall of the judge's normalised score from its maximum above which training stops
            while the score rises; at least 0
        policy_optimizer: optimizer of the policy
        sft_mix: examples added to each minibatch against forgetting; none: no examples
        verifiable: verifiable tasks among the prompts; only with a reward model; none: no tasks
        checkpoint_every_updates: updates between checkpoints (with sample responses for the
            report), at least 1
    """

    # A keyword, because a positional one would come after the fields of the base class.
    reward_model_directory: Path | None = field(kw_only=True)
    updates: Count = 100
    prompts_per_update: Count = 32
    samples_per_prompt: Count = 1
    minibatch_rows: Count = 16
    epochs_per_update: Count = 2
    early_stop_nats: Limit | None = None
    max_prompt_tokens: Count = 256
    max_response_tokens: Count = 64
    temperature: Positive = 1.0
    importance_cap: WeightCap | None = None
    max_staleness_updates: CountOrZero = 0
    rollout_server: RolloutServer | None = None
    judge_directory: Path | None = None
    judge_base_directory: Path | None = None
    kl_ceiling_nats: Limit | None = 20.0
    length_floor_fraction: FractionBelowOne = 0.25
    gold_drop: Annotated[float, Range()] = 0.5
    policy_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    sft_mix: SftMix | None = None
    verifiable: VerifiableMix | None = None
    checkpoint_every_updates: Count = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows_per_update % self.minibatch_rows:
            raise ConfigError(
                f"minibatch_rows: {self.minibatch_rows} does not divide the {self.rows_per_update} "
                f"rows of an update ({self.prompts_per_update} prompts x {self.samples_per_prompt} "
                f"samples); {self._divisors()} would",
                field="minibatch_rows",
                reason="OUT_OF_RANGE",
                limit=self._divisors(),
            )
        if (self.judge_directory is None) != (self.judge_base_directory is None):
            raise ConfigError(
                "judge_directory, judge_base_directory: both or neither must be set",
                field="judge_directory" if self.judge_directory is None else "judge_base_directory",
                reason="MISSING",
            )
        if self.verifiable is not None and self.reward_model_directory is None:
            raise ConfigError(
                "verifiable: needs a reward model for the other prompts; without one a verifier "
                "scores all of data_path",
                field="verifiable",
                reason="CONFLICT",
            )
        if self.verifiable is not None and self.prompts_per_update < 2:
            raise ConfigError(
                f"prompts_per_update: {self.prompts_per_update} has no prompt of each kind",
                field="prompts_per_update",
                reason="TOO_SMALL",
                limit="at least 2 with verifiable",
            )
        if self.max_staleness_updates > 0 and self.importance_cap is None:
            raise ConfigError(
                "max_staleness_updates: samples of older weights need importance_cap",
                field="max_staleness_updates",
                reason="CONFLICT",
            )
        if self.rollout_server is not None:
            self._check_rollout_server()

    def _check_rollout_server(self) -> None:
        """Check that a server samples the distribution that the policy has here.

        Raises:
            ConfigError: names the field that a server cannot follow.
        """
        conflicts = {
            # Its log-probs are those of temperature 1.
            "temperature": (self.temperature != 1.0, "must be 1"),
            # Its softmax covers all rows.
            "vocabulary_rows": (self.vocabulary_rows is not None, "must be none"),
            # It has one version at a time.
            "max_staleness_updates": (self.max_staleness_updates > 0, "must be 0"),
            # Workers with the same rows would get different samples.
            "parallelism.tensor": (self.parallelism.tensor > 1, "must be 1"),
        }
        for name, (conflict, limit) in conflicts.items():
            if conflict:
                raise ConfigError(
                    f"{name}: {limit} with rollout_server",
                    field=name,
                    reason="CONFLICT",
                    limit=limit,
                )

    def _divisors(self) -> str:
        """Return the largest divisors of an update's rows up to the requested size."""
        rows = self.rows_per_update
        parts = [part for part in range(min(rows, self.minibatch_rows), 0, -1) if rows % part == 0]
        return " or ".join(map(str, parts[:2]))

    @property
    def verifiable_per_update(self) -> int:
        """Verifiable prompts in one update, all workers together; 0 without `verifiable`."""
        if self.verifiable is None:
            return 0
        wanted = round(self.verifiable.share * self.prompts_per_update)
        return min(max(1, wanted), self.prompts_per_update - 1)

    @property
    def rows_per_update(self) -> int:
        """Responses in one update, all workers together."""
        return self.prompts_per_update * self.samples_per_prompt

    @property
    def is_one_step(self) -> bool:
        """True if an update consists of one optimizer step over all its rows.

        Then the scored policy and the trained policy are the same.
        """
        return self.epochs_per_update == 1 and self.minibatch_rows == self.rows_per_update

    @property
    def limits(self) -> Limits:
        """Thresholds of the alarms that stop training."""
        return Limits(self.kl_ceiling_nats, self.length_floor_fraction, self.gold_drop)


@dataclass(frozen=True)
class PpoConfig(PolicyConfig):
    """Configuration of PPO; common fields in PolicyConfig.

    Attributes:
        clip: distance of the ratio of new to old policy from 1 beyond which a token has no
            gradient; in (0, 1)
        value_clip: distance of a value from its old value beyond which a token does not train the
            critic; above 0
        reward: reward of a response
        kl: cost of divergence from the reference
        kl_ceiling_nats: KL to the reference, in nats per response, above which training stops;
            above 0
        critic_optimizer: optimizer of the critic
    """

    clip: OpenFraction = 0.2
    value_clip: Limit = 0.2
    reward: RewardShape = field(default_factory=RewardShape)
    kl: KlConfig = field(default_factory=KlConfig)
    kl_ceiling_nats: Limit = 20.0
    critic_optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        scale = 0.0 if self.verifiable is None else self.verifiable.reward_scale
        if scale > self.reward.score_clip:
            raise ConfigError(
                f"verifiable.reward_scale: {scale:g} would be clipped to reward.score_clip, "
                f"{self.reward.score_clip:g}",
                field="verifiable.reward_scale",
                reason="TOO_LARGE",
                limit=f"at most {self.reward.score_clip:g}",
            )
        # next_beta changes beta by at most MAX_RELATIVE_ERROR * rows / horizon of itself.
        minimum = MAX_RELATIVE_ERROR * self.rows_per_update
        if self.kl.target_nats is not None and self.kl.horizon_samples <= minimum:
            raise ConfigError(
                f"kl.horizon_samples: {self.kl.horizon_samples} is not above {minimum:g}: one "
                f"update of {self.rows_per_update} rows could lower beta to 0 or below",
                field="kl.horizon_samples",
                reason="TOO_SMALL",
                limit=f"above {minimum:g}",
            )


@dataclass(frozen=True)
class GrpoConfig(PolicyConfig):
    """Configuration of GRPO; common fields in PolicyConfig.

    A group is the samples_per_prompt responses to one prompt.

    | paper | standardise | normalisation | filter_zero_variance | clip_high | kl_coefficient |
    |---|---|---|---|---|---|
    | GRPO, arXiv 2402.03300 | True | sequence | False | 0.2 | 0.04 |
    | Dr. GRPO, arXiv 2503.20783 | False | constant | False | 0.2 | 0 |
    | DAPO, arXiv 2503.14476 | True | token | True | 0.28 | 0 |

    Attributes:
        samples_per_prompt: responses to each prompt, compared with each other; at least 2
        standardise: divide the advantages of a group by the standard deviation of its scores
        normalisation: divisor of the loss: token: all tokens, sequence: tokens of each response, or
            constant: constant_tokens
        constant_tokens: divisor of each response with normalisation "constant", at least 1; none
            with the others
        filter_zero_variance: leave out groups whose responses all have the same score
        clip_low: distance of the ratio of new to old policy below 1 beyond which a token has no
            gradient; in (0, 1)
        clip_high: the same distance above 1; above 0
        kl_coefficient: factor of the KL to the reference in the loss (k3), at least 0; 0: no
            reference is loaded, and kl_ceiling_nats must be none
        missing_eos_penalty: subtracted from the score of a response without end token, at least 0
        mask_missing_eos: responses without end token count in their group but are not learned from
        soft_overlong_tokens: tokens before max_response_tokens from which length lowers the score;
            at least 0, less than max_response_tokens; 0: none
    """

    samples_per_prompt: Annotated[int, Range(2)] = 16
    minibatch_rows: Count = 64
    standardise: bool = True
    normalisation: Normalisation = Normalisation.TOKEN
    constant_tokens: Count | None = None
    filter_zero_variance: bool = False
    clip_low: OpenFraction = 0.2
    clip_high: Positive = 0.28
    kl_coefficient: NonNegative = 0.02
    missing_eos_penalty: NonNegative = 0.0
    mask_missing_eos: bool = False
    soft_overlong_tokens: CountOrZero = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        constant = self.normalisation is Normalisation.CONSTANT
        if constant != (self.constant_tokens is not None):
            raise ConfigError(
                f"constant_tokens: {self.constant_tokens} with "
                f"normalisation {self.normalisation.value}",
                field="constant_tokens",
                reason="MISSING" if constant else "CONFLICT",
            )
        if constant and self.standardise:
            raise ConfigError(
                "standardise: constant normalisation (Dr. GRPO) needs advantages without division",
                field="standardise",
                reason="CONFLICT",
            )
        if self.kl_coefficient == 0 and self.kl_ceiling_nats is not None:
            raise ConfigError(
                "kl_ceiling_nats: needs a reference, which only kl_coefficient loads; set None",
                field="kl_ceiling_nats",
                reason="CONFLICT",
            )
        if self.mask_missing_eos and (self.missing_eos_penalty or self.soft_overlong_tokens):
            raise ConfigError(
                "mask_missing_eos: a penalty has no effect on masked responses",
                field="mask_missing_eos",
                reason="CONFLICT",
            )
        if self.soft_overlong_tokens >= self.max_response_tokens:
            raise ConfigError(
                f"soft_overlong_tokens: {self.soft_overlong_tokens} is not below "
                f"max_response_tokens, {self.max_response_tokens}",
                field="soft_overlong_tokens",
                reason="TOO_LARGE",
                limit=f"below {self.max_response_tokens}",
            )

    @property
    def is_one_step(self) -> bool:
        """Extend `PolicyConfig.is_one_step` to masked rows.

        Masked rows have no gradient, but their graph would be part of the backward pass all the
        same.
        """
        return super().is_one_step and not (self.filter_zero_variance or self.mask_missing_eos)
