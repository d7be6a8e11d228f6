"""Values of the recipe `auto` that do not depend on a layout, and the modes of training.

Values without a derivation are those of nano and small, whose runs were measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from training.data.feedback.sets import SetsConfig
from training.decoding.config import MAX_TOKENS
from training.evaluation.canary import CanaryConfig
from training.evaluation.config import Sampling
from training.evaluation.gate import GateConfig
from training.evaluation.task_rows import RULES
from training.model.config import LoraConfig, ModelConfig
from training.optim.config import OptimizerConfig
from training.planning.accelerators import cpu
from training.planning.collected import CollectedData
from training.planning.hardware import Hardware
from training.planning.step import adapter_size, sizes_of
from training.recipes.auto import rates
from training.recipes.auto.rates import LORA
from training.recipes.custom.recipe_file import set_parts
from training.recipes.loop_config import Values
from training.recipes.names import AUTO
from training.recipes.recipe import Plan
from training.rl.config import KlConfig
from training.runtime.context import Machine
from training.runtime.ranges import Count, check_fields
from training.stages.config import RewardModelConfig, SftConfig
from training.stages.policy_config import PpoConfig

# Below this, full training: its rates are measured (nano), and rank 16 is a large part of matrices
# with a few hundred columns. The rates of adapters are not extrapolated below it.
FULL_BELOW_WEIGHTS = 50_000_000
# An adapter holds at least as much as full training learns while its weights are not fewer than
# half of the trained tokens: 2 bits a weight (arXiv 2404.05405) and 1 bit a token ("LoRA Without
# Regret").
TOKENS_PER_ADAPTER_WEIGHT = 2
# The recipe small: LoRA is twice as fast with 32k rows of Gemma's 262k.
TRIMMED_ROWS = 32_768
SPARE_ROWS = 1.25  # for control tokens, and for words that the policy may learn to say
LIMITS = ("ppo.max_prompt_tokens=", "ppo.max_response_tokens=")
ADAPTER, SERVER = "ppo.lora", "ppo.rollout_server"
TOKEN_STEP, FEWEST_TOKENS = 64, 64
# Optimizer steps of a pass over the data in nano and small, and their range of batches; published
# recipes have up to 64 (Llama 2) and 128 (Tulu 3) for hundreds of thousands of examples.
STEPS_PER_PASS, BATCHES = 32, (8, 64)
SFT_EPOCHS = 2  # Llama 2 and Tulu 3
FEW_PAIRS = 5000  # above, one pass: a second one overfits (Llama 2, section 3.2.2)
KL = KlConfig(initial=0.05)  # small, and Tulu 3
# As in small: deployments with few users; the chart passes --canary-steps.
CANARY = CanaryConfig(
    share=0.5, poll_seconds=10.0, lease_seconds=300.0, max_seconds=24 * 3600.0, steps=()
)
CAP_PROMPTS = {True: 16, False: 64}  # of an update, by CPU: small and nano
ROLLOUTS = {True: 960, False: 3840}  # of all updates: 60 updates, as small


@dataclass(frozen=True)
class TrainingMode:
    """Trained weights: of adapters, if any, and of a part of the vocabulary, if any."""

    lora: LoraConfig | None
    vocabulary_rows: int | None = None

    def __str__(self) -> str:
        if self.lora is None:
            return "full training"
        rows = f", {self.vocabulary_rows:,} rows of the vocabulary" if self.vocabulary_rows else ""
        return f"LoRA of rank {self.lora.rank}{rows}"


def is_tiny(model: ModelConfig) -> bool:
    """Return True for models of nano's kind."""
    return sizes_of(model).total < FULL_BELOW_WEIGHTS


def used_hardware(model: ModelConfig, hardware: Hardware) -> Hardware:
    """Return what a model uses of the hardware: on CPUs a tiny one trains on one core."""
    accelerator = hardware.accelerator
    if not (accelerator.is_cpu and is_tiny(model)):
        return hardware
    return replace(hardware, accelerator=cpu(1, accelerator.memory_gib))


def training_modes(
    plan: Plan, model: ModelConfig, data: CollectedData, hardware: Hardware
) -> Iterator[TrainingMode]:
    """Yield the training modes, the preferred one first.

    An assigned `ppo.lora` decides for all stages, because all share the adapter's base.
    """
    words = [text for text in plan.assignments if text.startswith(ADAPTER)]
    lora = set_parts({"ppo": _Adapter(LORA)}, words)["ppo"].lora
    if lora is None:
        yield TrainingMode(None)
        return
    full, adapters = [TrainingMode(None)], [TrainingMode(lora)]
    needed = data.distinct_ids * SPARE_ROWS
    rows = max(TRIMMED_ROWS, 1 << math.ceil(math.log2(max(1.0, needed))))
    is_served = any(text.startswith(SERVER) for text in plan.assignments)
    if rows < model.vocab_size and not is_served:  # a server's softmax covers all rows
        trimmed = TrainingMode(lora, rows)
        # On a CPU the head takes most of the time; on a GPU only its memory matters.
        adapters = [trimmed, *adapters] if hardware.accelerator.is_cpu else [*adapters, trimmed]
    tokens = SFT_EPOCHS * data.sft_examples * data.response.mean
    capacity = TOKENS_PER_ADAPTER_WEIGHT * adapter_size(model, lora)
    if words:
        yield from adapters
    elif is_tiny(model) or tokens > capacity:
        yield from [*full, *adapters]
    else:
        yield from [*adapters, *full]


def derived_values(
    plan: Plan, model: ModelConfig, data: CollectedData, hardware: Hardware, mode: TrainingMode
) -> Values:
    """Return the values of a run before its layout is chosen."""
    weights, adapted = sizes_of(model).total, mode.lora is not None
    if adapted:
        weights = max(weights, FULL_BELOW_WEIGHTS)
    is_cpu, multiple = hardware.accelerator.is_cpu, hardware.row_multiple
    prompts = _multiple(CAP_PROMPTS[is_cpu], multiple)
    ppo = partial(
        PpoConfig,
        updates=max(1, ROLLOUTS[is_cpu] // prompts),
        prompts_per_update=prompts,
        minibatch_rows=_multiple(max(1, prompts // 2), multiple),
        epochs_per_update=1,
        kl=KL,
        policy_optimizer=OptimizerConfig(learning_rate=rates.POLICY.at(weights, adapted)),
        critic_optimizer=OptimizerConfig(learning_rate=rates.CRITIC.at(weights, adapted)),
        checkpoint_every_updates=2,
    )
    response = _limit(data.response.most, min(MAX_TOKENS, model.max_positions // 2))
    prompt = _limit(data.prompt.most, model.max_positions - response)
    prompt, response = _assigned_limits(plan, prompt, response)
    sft_rows = _batch(data.sft_examples, multiple)
    pair_rows = _batch(data.pairs, multiple)
    return Values(
        name=AUTO,
        texts="small",  # everyday English; nothing in them is about the small model
        prompt_tokens=prompt,
        response_tokens=response,
        row_tokens=prompt + response,
        # As nano, which gains nothing from bf16 or from a second thread on a CPU.
        machine=Machine(threads=1)
        if is_cpu and is_tiny(model)
        else Machine(dtype="bfloat16" if hardware.narrow else "float32"),
        lora=mode.lora,
        vocabulary_rows=mode.vocabulary_rows,
        sets=SetsConfig(
            held_out_fraction=0.25, min_thumbs=100, min_pairs=30, min_held_out_pairs=10
        ),
        sft=partial(
            SftConfig,
            epochs=SFT_EPOCHS,
            batch_rows=sft_rows,
            microbatch_rows=1,
            optimizer=OptimizerConfig(learning_rate=rates.SFT.at(weights, adapted)),
            checkpoint_every_steps=10,
        ),
        reward_model=partial(
            RewardModelConfig,
            epochs=2 if data.pairs <= FEW_PAIRS else 1,
            batch_pairs=pair_rows,
            microbatch_pairs=1,
            optimizer=OptimizerConfig(learning_rate=rates.REWARD_MODEL.at(weights, adapted)),
            checkpoint_every_steps=10,
        ),
        ppo=ppo,
        mix_rows=_multiple(8, multiple),
        sampling=Sampling(samples_per_prompt=2, batch_prompts=16),
        gate=GateConfig(tasks=tuple(RULES)),
        canary=CANARY,
    )


def _assigned_limits(plan: Plan, prompt: int, response: int) -> tuple[int, int]:
    """Return the limits of PPO that the operator assigned, which other stages follow."""
    words = [text for text in plan.assignments if text.startswith(LIMITS)]
    limits = set_parts({"ppo": _Limits(prompt, response)}, words)["ppo"]
    return limits.max_prompt_tokens, limits.max_response_tokens


@dataclass(frozen=True)
class _Adapter:
    lora: LoraConfig | None


@dataclass(frozen=True)
class _Limits:
    max_prompt_tokens: Count
    max_response_tokens: Count

    def __post_init__(self) -> None:
        check_fields(self)


def _limit(most: int, allowed: int) -> int:
    """Return a limit that holds `most` tokens, at most `allowed`."""
    stepped = math.ceil(max(most, FEWEST_TOKENS) / TOKEN_STEP) * TOKEN_STEP
    return max(1, min(stepped, allowed))


def _batch(rows: int, multiple: int) -> int:
    """Return the rows of an optimizer step: a power of two, then a multiple for the workers."""
    smallest, largest = BATCHES
    power = 1 << max(0, round(math.log2(max(1, rows / STEPS_PER_PASS))))
    return _multiple(min(max(power, smallest), largest), multiple)


def _multiple(rows: int, multiple: int) -> int:
    return math.ceil(rows / multiple) * multiple
