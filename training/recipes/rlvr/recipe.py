"""Complete configs for two sizes: full training of a tiny model, LoRA for a small model.

Groups have 8 samples and 16 prompts. With fewer than some hundred samples per update GRPO collapses
early on small models; 400 and more are better, but cost minutes per update on a small machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from training.evaluation.answers import Sampling
from training.model.config import LoraConfig
from training.optim.config import OptimizerConfig
from training.recipes.names import RLVR_PROMPT_TOKENS, RLVR_RESPONSE_TOKENS
from training.recipes.small import LORA, VOCABULARY_ROWS
from training.rl.config import KlConfig
from training.runtime.context import Lineage, Machine
from training.stages.policy_config import GrpoConfig, PpoConfig

SEED = 20_261_126


@dataclass(frozen=True)
class Size:
    """Settings for a size of model; prompts and samples are per update."""

    lora: LoraConfig | None
    vocabulary_rows: int | None
    learning_rate: float
    prompts: int
    samples: int
    minibatch_rows: int
    dtype: str = "float32"


SIZES = {
    "tiny": Size(None, None, 3e-4, prompts=25, samples=16, minibatch_rows=100),
    "small": Size(
        LORA, VOCABULARY_ROWS, 1e-4, prompts=16, samples=8, minibatch_rows=64, dtype="auto"
    ),
}


@dataclass(frozen=True)
class Lengths:
    """Token limits: longer prompts are dropped, longer responses cut off."""

    prompt: int = RLVR_PROMPT_TOKENS
    response: int = RLVR_RESPONSE_TOKENS


def grpo(
    size: Size, model: Path, data: Path, output: Path, updates: int, lengths: Lengths, commit: str
) -> GrpoConfig:
    """Return a config of GRPO with the wider clip and the filter of DAPO.

    Groups with equal scores have no gradient.
    """
    return GrpoConfig(
        model_directory=model,
        reward_model_directory=None,
        data_path=data,
        output_directory=output,
        lineage=Lineage(output.name, code_commit=commit),
        updates=updates,
        prompts_per_update=size.prompts,
        samples_per_prompt=size.samples,
        minibatch_rows=size.minibatch_rows,
        epochs_per_update=1,
        filter_zero_variance=True,
        max_prompt_tokens=lengths.prompt,
        max_response_tokens=lengths.response,
        policy_optimizer=_optimizer(size),
        lora=size.lora,
        vocabulary_rows=size.vocabulary_rows,
        checkpoint_every_updates=2,
        seed=SEED,
        machine=Machine(dtype=size.dtype),
    )


def ppo(
    size: Size, model: Path, data: Path, output: Path, updates: int, lengths: Lengths, commit: str
) -> PpoConfig:
    """Return a config of PPO without a reward model; the critic is the model with a zero head."""
    return PpoConfig(
        model_directory=model,
        reward_model_directory=None,
        data_path=data,
        output_directory=output,
        lineage=Lineage(output.name, code_commit=commit),
        updates=updates,
        prompts_per_update=size.prompts * size.samples,
        minibatch_rows=size.minibatch_rows,
        max_prompt_tokens=lengths.prompt,
        max_response_tokens=lengths.response,
        kl=KlConfig(initial=0.05),
        policy_optimizer=_optimizer(size),
        critic_optimizer=_optimizer(size),
        lora=size.lora,
        vocabulary_rows=size.vocabulary_rows,
        checkpoint_every_updates=2,
        seed=SEED,
        machine=Machine(dtype=size.dtype),
    )


ALGORITHMS = {"grpo": grpo, "ppo": ppo}


def sampling(lengths: Lengths, samples: int) -> Sampling:
    """Return the sampling of held-out items, equal to the sampling in training.

    So the measured distribution is the trained one.
    """
    return Sampling(
        samples_per_prompt=samples,
        max_prompt_tokens=lengths.prompt,
        max_response_tokens=lengths.response,
        seed=SEED,
    )


def _optimizer(size: Size) -> OptimizerConfig:
    return OptimizerConfig(learning_rate=size.learning_rate, warmup_steps=2, betas=(0.9, 0.99))
