"""Stage of a recipe: its configuration and the size of its data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from training.stages.config import DpoConfig, KtoConfig, RewardModelConfig, SftConfig
from training.stages.policy_config import GrpoConfig, PpoConfig
from training.stages.pretrain_config import PretrainConfig

PlannedConfig = (
    PretrainConfig | SftConfig | RewardModelConfig | DpoConfig | KtoConfig | PpoConfig | GrpoConfig
)


@dataclass(frozen=True)
class DataSize:
    """Size of a stage's data.

    Attributes:
        rows: examples, pairs or prompts in the file.
        prompt_tokens, response_tokens: means, for the time; the limits of the config decide the
            memory. Pre-training has its sizes in its config.
        mix_tokens: longest example of PPO's sft_mix, if it is known to be shorter than the limits.
    """

    rows: int = 0
    prompt_tokens: float = 0.0
    response_tokens: float = 0.0
    mix_tokens: int | None = None


@dataclass(frozen=True)
class PlannedStage:
    """Stage of a recipe with its config and the size of its data."""

    name: str
    config: PlannedConfig
    data: DataSize = field(default_factory=DataSize)

    def laid_out(self, **factors: int) -> PlannedStage:
        """Return the stage with other values of its parallelism."""
        parallelism = replace(self.config.parallelism, **factors)
        return replace(self, config=replace(self.config, parallelism=parallelism))
