"""Assembly of a LoopConfig from the values in which recipes differ.

Paths, lineages, the base of each reward model, and limits that must agree are the same in all
recipes, so they are set here once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from training.data.feedback.sets import ANCHORS, SetsConfig
from training.data.feedback.snapshot import SnapshotConfig
from training.decoding.config import Task, read_presets
from training.evaluation.canary import CanaryConfig
from training.evaluation.config import EvaluationConfig, Sampling
from training.evaluation.gate import GateConfig
from training.model.config import LoraConfig
from training.recipes.recipe import TEXTS, LoopConfig, Plan
from training.runtime.context import Machine
from training.stages.config import RewardModelConfig, SftConfig
from training.stages.policy_config import PpoConfig, SftMix


@dataclass(frozen=True)
class Values:
    """Values of a recipe that several stages share, and the values of its stages.

    Attributes:
        texts: prefix of the files with anchors, probes and fixed texts.
        prompt_tokens, response_tokens: limits of PPO's and the evaluation's prompts and answers.
        row_tokens: limit of a prompt and an answer together, in SFT and reward models.
        mix_rows: anchors in each minibatch of PPO.
        sft, reward_model, ppo: constructors that lack paths, lineage and the shared values.
        sampling: of the evaluation; lengths and preset are set here.
        max_model_bytes: limit of the incumbent's weights; None: that of LoopConfig.
    """

    name: str
    texts: str
    prompt_tokens: int
    response_tokens: int
    row_tokens: int
    machine: Machine
    sets: SetsConfig
    sft: Callable[..., SftConfig]
    reward_model: Callable[..., RewardModelConfig]
    ppo: Callable[..., PpoConfig]
    sampling: Sampling
    gate: GateConfig
    canary: CanaryConfig
    lora: LoraConfig | None = None
    vocabulary_rows: int | None = None
    mix_rows: int = 8
    max_model_bytes: int | None = None


def loop_config(plan: Plan, values: Values) -> LoopConfig:
    """Return the configuration of a run.

    Raises:
        ConfigError: values contradict each other; names the field.
    """
    sets = plan.directory("sets")
    adapted = {
        "lora": values.lora,
        "vocabulary_rows": values.vocabulary_rows,
        "machine": values.machine,
    }
    # Adapters share the weights of the policy, which PPO takes from SFT.
    reward_base = plan.directory("sft") if values.lora else plan.incumbent_directory

    def reward_model(part: str, base: Path, data: str) -> RewardModelConfig:
        return values.reward_model(
            model_directory=base,
            data_path=sets / data,
            output_directory=plan.directory(part),
            lineage=plan.lineage(part),
            max_tokens=values.row_tokens,
            held_out_fraction=0.1,
            **adapted,
        )

    config = LoopConfig(
        name=values.name,
        plan=plan,
        snapshot=SnapshotConfig(max_per_principal=100),
        sets=replace(values.sets, anchors=TEXTS / f"{values.texts}_anchors.jsonl"),
        sft=values.sft(
            model_directory=plan.incumbent_directory,
            data_path=sets / "sft.jsonl",
            output_directory=plan.directory("sft"),
            lineage=plan.lineage("sft"),
            max_tokens=values.row_tokens,
            **adapted,
        ),
        reward_model=reward_model("reward", reward_base, "pairs.jsonl"),
        # The judge is based on the incumbent: the SFT model has been trained on thumbs outside the
        # judge's data.
        judge=reward_model("judge", plan.incumbent_directory, "judge_pairs.jsonl"),
        ppo=values.ppo(
            model_directory=plan.directory("sft"),
            reward_model_directory=plan.directory("reward"),
            data_path=sets / "prompts.jsonl",
            output_directory=plan.directory(""),
            lineage=plan.lineage(""),
            max_prompt_tokens=values.prompt_tokens,
            max_response_tokens=values.response_tokens,
            sft_mix=SftMix(sets / ANCHORS, rows=values.mix_rows),
            **adapted,
        ),
        evaluation=_evaluation(plan, values, reward_base),
        gate=values.gate,
        canary=values.canary,
    )
    if values.max_model_bytes is None:
        return config
    return replace(config, max_model_bytes=values.max_model_bytes)


def _evaluation(plan: Plan, values: Values, reward_base: Path) -> EvaluationConfig:
    """Return the evaluation of a run. Sampling uses the chat preset, as for users."""
    served = read_presets()[Task.CHAT]
    return EvaluationConfig(
        incumbent_directory=plan.incumbent_directory,
        candidate_directory=plan.directory(""),
        reward_model_directory=plan.directory("reward"),
        reward_model_base=reward_base,
        judge_directory=plan.directory("judge"),
        judge_base=plan.incumbent_directory,
        held_out_prompts=plan.directory("sets") / "held_out_prompts.jsonl",
        held_out_pairs=plan.directory("sets") / "held_out_pairs.jsonl",
        thumbs=plan.directory("sets") / "thumbs.jsonl",
        retention_texts=TEXTS / f"{values.texts}_retention.jsonl",
        probes=TEXTS / f"{values.texts}_probes.jsonl",
        health_directory=plan.directory("health"),
        output_directory=plan.directory("evaluation"),
        sampling=replace(
            values.sampling,
            max_prompt_tokens=values.prompt_tokens,
            max_response_tokens=values.response_tokens,
            temperature=served.temperature,
            top_p=served.top_p,
        ),
        machine=values.machine,
    )
