"""Recipe `small`: LoRA on Gemma-3-270M with our SFT adapter; about half an hour on two CPU cores.

The recipe is for a few hundred thumbs. Its sizes follow from measured rates: LoRA trains 150 to 200
tokens per second with a vocabulary of 32k rows.
"""

from __future__ import annotations

from functools import partial

from training.data.feedback.sets import SetsConfig
from training.evaluation.canary import CanaryConfig
from training.evaluation.config import Sampling
from training.evaluation.gate import GateConfig
from training.evaluation.task_rows import RULES
from training.model.config import LoraConfig
from training.optim.config import OptimizerConfig
from training.recipes.loop_config import Values, loop_config
from training.recipes.recipe import LoopConfig, Plan
from training.rl.config import KlConfig
from training.runtime.context import Machine
from training.stages.config import RewardModelConfig, SftConfig
from training.stages.policy_config import PpoConfig

PROMPT_TOKENS, RESPONSE_TOKENS = 192, 64
VOCABULARY_ROWS = 32_768
LORA = LoraConfig(rank=8, alpha=16.0)
VALUES = Values(
    name="small",
    texts="small",
    prompt_tokens=PROMPT_TOKENS,
    response_tokens=RESPONSE_TOKENS,
    row_tokens=PROMPT_TOKENS + 2 * RESPONSE_TOKENS,
    machine=Machine(threads=0, dtype="auto"),
    lora=LORA,
    vocabulary_rows=VOCABULARY_ROWS,
    sets=SetsConfig(
        held_out_fraction=0.25,
        min_thumbs=100,
        min_pairs=30,
        min_held_out_pairs=10,
        max_pairs_per_prompt=12,
    ),
    sft=partial(
        SftConfig,
        epochs=1,
        batch_rows=8,
        microbatch_rows=4,
        optimizer=OptimizerConfig(learning_rate=1e-4),
        checkpoint_every_steps=10,
    ),
    reward_model=partial(
        RewardModelConfig,
        epochs=2,
        batch_pairs=8,
        microbatch_pairs=2,
        optimizer=OptimizerConfig(learning_rate=2e-4),
        checkpoint_every_steps=10,
    ),
    ppo=partial(
        PpoConfig,
        updates=60,
        prompts_per_update=16,
        minibatch_rows=8,
        epochs_per_update=1,
        kl=KlConfig(initial=0.05),
        kl_ceiling_nats=15.0,
        policy_optimizer=OptimizerConfig(learning_rate=2e-4),
        critic_optimizer=OptimizerConfig(learning_rate=2e-4),
        checkpoint_every_updates=2,
    ),
    sampling=Sampling(samples_per_prompt=2, batch_prompts=8),
    # 12 equal refusals bound a drop by 0.23. Users of a small model prefer far shorter answers.
    gate=GateConfig(
        tasks=tuple(RULES),
        margins={"style_length": 0.7},
        refusal_drop=0.35,
        kl_ceiling_nats=15.0,
        min_ended=0.6,
    ),
    canary=CanaryConfig(
        share=0.5,
        poll_seconds=10.0,
        lease_seconds=300.0,
        max_seconds=6 * 3600.0,
        # Deployments with few users; others pass --canary-steps.
        steps=(),
    ),
)


def small(plan: Plan) -> LoopConfig:
    """Return the configuration of a run with the small model."""
    return loop_config(plan, VALUES)
