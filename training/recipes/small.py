"""Recipe `small`: LoRA on Gemma-3-270M with our SFT adapter; about half an hour on two CPU cores.

The recipe is for a few hundred thumbs. Its sizes follow from measured rates: LoRA trains 150 to 200
tokens per second with a vocabulary of 32k rows.
"""

from __future__ import annotations

from training.data.feedback.sets import ANCHORS, SetsConfig
from training.data.feedback.snapshot import SnapshotConfig
from training.evaluation.answers import Sampling
from training.evaluation.canary import CanaryConfig
from training.evaluation.gate import GateConfig
from training.evaluation.task_rows import RULES
from training.model.lora import LoraConfig
from training.optim.optimizers import OptimizerConfig
from training.recipes.recipe import TEXTS, LoopConfig, Plan, evaluation_of
from training.rl.advantages import KlConfig
from training.runtime.context import Machine
from training.stages.config import SftMix
from training.stages.ppo import PpoConfig
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig

PROMPT_TOKENS, RESPONSE_TOKENS = 192, 64
VOCABULARY_ROWS = 32_768
LORA = LoraConfig(rank=8, alpha=16.0)
MACHINE = Machine(threads=0, dtype="auto")


def small(plan: Plan) -> LoopConfig:
    """Return the configuration of a run with the small model."""
    sets = plan.directory("sets")
    return LoopConfig(
        name="small",
        plan=plan,
        snapshot=SnapshotConfig(max_per_principal=100),
        sets=SetsConfig(
            anchors=TEXTS / "small_anchors.jsonl",
            held_out_fraction=0.25,
            min_thumbs=100,
            min_pairs=30,
            min_held_out_pairs=10,
            max_pairs_per_prompt=12,
        ),
        sft=SftConfig(
            model_directory=plan.incumbent_directory,
            data_path=sets / "sft.jsonl",
            output_directory=plan.directory("sft"),
            lineage=plan.lineage("sft"),
            epochs=1,
            batch_rows=8,
            microbatch_rows=4,
            max_tokens=PROMPT_TOKENS + 2 * RESPONSE_TOKENS,
            optimizer=OptimizerConfig(learning_rate=1e-4),
            lora=LORA,
            vocabulary_rows=VOCABULARY_ROWS,
            checkpoint_every_steps=10,
            machine=MACHINE,
        ),
        reward_model=_reward_model(plan, "reward", "pairs.jsonl"),
        judge=_reward_model(plan, "judge", "judge_pairs.jsonl"),
        ppo=PpoConfig(
            model_directory=plan.directory("sft"),
            reward_model_directory=plan.directory("reward"),
            data_path=sets / "prompts.jsonl",
            output_directory=plan.directory(""),
            lineage=plan.lineage(""),
            updates=60,
            prompts_per_update=16,
            minibatch_rows=8,
            epochs_per_update=1,
            max_prompt_tokens=PROMPT_TOKENS,
            max_response_tokens=RESPONSE_TOKENS,
            kl=KlConfig(initial=0.05),
            kl_ceiling_nats=15.0,
            sft_mix=SftMix(sets / ANCHORS, rows=8),
            policy_optimizer=OptimizerConfig(learning_rate=2e-4),
            critic_optimizer=OptimizerConfig(learning_rate=2e-4),
            lora=LORA,
            vocabulary_rows=VOCABULARY_ROWS,
            checkpoint_every_updates=2,
            machine=MACHINE,
        ),
        evaluation=evaluation_of(
            plan,
            "small",
            plan.directory("sft"),
            Sampling(
                samples_per_prompt=2,
                max_prompt_tokens=PROMPT_TOKENS,
                max_response_tokens=RESPONSE_TOKENS,
                batch_prompts=8,
            ),
            MACHINE,
        ),
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


def _reward_model(plan: Plan, part: str, data: str) -> RewardModelConfig:
    """Return the reward model or the judge.

    The judge is based on the incumbent: the SFT model has been trained on thumbs outside the
    judge's data.
    """
    return RewardModelConfig(
        model_directory=plan.directory("sft") if part == "reward" else plan.incumbent_directory,
        data_path=plan.directory("sets") / data,
        output_directory=plan.directory(part),
        lineage=plan.lineage(part),
        epochs=2,
        batch_pairs=8,
        microbatch_pairs=2,
        max_tokens=PROMPT_TOKENS + 2 * RESPONSE_TOKENS,
        optimizer=OptimizerConfig(learning_rate=2e-4),
        lora=LORA,
        vocabulary_rows=VOCABULARY_ROWS,
        held_out_fraction=0.1,
        checkpoint_every_steps=10,
        machine=MACHINE,
    )
