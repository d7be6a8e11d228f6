"""A recipe laid out on accelerators, stage by stage: will it fit, and how long is a step?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from training.model.config import ModelConfig
from training.model.lora import LoraConfig, adapter_size
from training.planning.accelerators import GIB, USABLE_MEMORY, Accelerator
from training.planning.memory import Load, Memory, estimate
from training.planning.step_time import Passes, Spread, StepTime, step_time
from training.recipes.recipe import LoopConfig
from training.stages.context import ConfigError
from training.stages.ppo import PpoConfig
from training.stages.reward_model import RewardModelConfig
from training.stages.sft import SftConfig


@dataclass(frozen=True)
class StagePlan:
    """One stage on one accelerator of many."""

    stage: str
    spread: Spread
    memory: Memory
    time: StepTime

    @property
    def room_bytes(self) -> int:
        """What the accelerator has for it."""
        return int(USABLE_MEMORY * self.spread.accelerator.memory_bytes)

    @property
    def fits(self) -> bool:
        return self.memory.total <= self.room_bytes

    def text(self) -> str:
        """One line."""
        spread, memory, time = self.spread, self.memory, self.time
        layout = f"{spread.copies} copies x {spread.shard} shards x {spread.tensor} tensor"
        held = f"{memory.total / GIB:.1f} of {self.room_bytes / GIB:.0f} GiB"
        return f"{self.stage}: {layout}; {held}{'' if self.fits else ', does not fit'}; {time.total:.2f} s a step"


def plan_loop(config: LoopConfig, model: ModelConfig, accelerator: Accelerator, count: int) -> list[StagePlan]:
    """Every stage of a turn that trains.

    Raises:
        ConfigError: a stage does not fit; the text names it, and what it needs most of.
    """
    plans = list(_stages(config, model, accelerator, count))
    for plan in plans:
        if not plan.fits:
            parts = {name: getattr(plan.memory, name) for name in plan.memory.__dataclass_fields__}
            most = max(parts, key=lambda name: parts[name])
            raise ConfigError(
                f"gpus: {plan.stage} needs {plan.memory.total / GIB:.1f} GiB on each of {count} {accelerator.name}, "
                f"which have {plan.room_bytes / GIB:.0f} to use; most of it are {most}, {parts[most] / GIB:.1f} GiB"
            )
    return plans


def _stages(config: LoopConfig, model: ModelConfig, accelerator: Accelerator, count: int) -> Iterator[StagePlan]:
    yield _plan_sft(config.sft, model, accelerator, count)
    yield _plan_reward_model(config.reward_model, model, accelerator, count)
    yield _plan_ppo(config.ppo, model, accelerator, count)


def _plan_sft(config: SftConfig, model: ModelConfig, accelerator: Accelerator, count: int) -> StagePlan:
    spread = _spread(config.parallelism.shard, config.parallelism.tensor, accelerator, count)
    load = _load(model, config.lora, config.microbatch_rows, config.max_tokens, config.checkpoint_activations)
    tokens = config.batch_rows * config.max_tokens
    microbatches = _each(config.batch_rows, spread) // config.microbatch_rows
    return _stage("sft", model, load, _training(tokens, config.lora, load), max(1, microbatches), 0, spread)


def _plan_reward_model(
    config: RewardModelConfig, model: ModelConfig, accelerator: Accelerator, count: int
) -> StagePlan:
    spread = _spread(config.parallelism.shard, config.parallelism.tensor, accelerator, count)
    rows, checkpointing = 2 * config.microbatch_pairs, config.checkpoint_activations
    load = _load(model, config.lora, rows, config.max_tokens, checkpointing)
    tokens = 2 * config.batch_pairs * config.max_tokens
    microbatches = _each(config.batch_pairs, spread) // config.microbatch_pairs
    return _stage("reward model", model, load, _training(tokens, config.lora, load), max(1, microbatches), 0, spread)


def _plan_ppo(config: PpoConfig, model: ModelConfig, accelerator: Accelerator, count: int) -> StagePlan:
    spread = _spread(config.parallelism.shard, config.parallelism.tensor, accelerator, count)
    columns = config.max_prompt_tokens + config.max_response_tokens
    rows, sampled = _each(config.minibatch_rows, spread), _each(config.rows_per_update, spread)
    full = config.lora is None
    load = Load(
        trained=2 if full else 0,  # policy and critic
        frozen=2 if full else 1,  # reference and reward model; all four are one decoder's adapters otherwise
        adapter=0 if config.lora is None else 2 * adapter_size(model, config.lora),
        rows=rows,
        columns=columns,
        recomputed=config.checkpoint_activations,
        cache_rows=sampled,
    )
    tokens = config.rows_per_update * columns
    learned = 2 * config.epochs_per_update * tokens
    passes = Passes(
        forward=4 * tokens + learned,  # everyone's opinion first
        backward=learned if full else 0,
        through_frozen=0 if full else learned,
    )
    forwards = 4 * sampled // rows + 2 * config.epochs_per_update * sampled // rows
    time = step_time(model, passes, columns, forwards, config.max_response_tokens, sampled, spread)
    memory = estimate(model, load, spread.shard, spread.tensor)
    return StagePlan("ppo", spread, memory, time)


def _stage(
    stage: str, model: ModelConfig, load: Load, passes: Passes, forwards: int, decoded: int, spread: Spread
) -> StagePlan:
    time = step_time(model, passes, load.columns, forwards, decoded, 0, spread)
    return StagePlan(stage, spread, estimate(model, load, spread.shard, spread.tensor), time)


def _spread(shard: int, tensor: int, accelerator: Accelerator, count: int) -> Spread:
    if count % (shard * tensor):
        raise ConfigError(f"gpus: {count} is not a multiple of the recipe's {shard} shards x {tensor} tensor")
    return Spread(accelerator, count // (shard * tensor), shard, tensor)


def _each(rows: int, spread: Spread) -> int:
    """Of a step's rows, those of one worker."""
    return max(1, rows // (spread.copies * spread.shard))


def _load(model: ModelConfig, lora: LoraConfig | None, rows: int, columns: int, recomputed: bool) -> Load:
    full = lora is None
    adapter = 0 if lora is None else adapter_size(model, lora)
    return Load(int(full), int(not full), adapter, rows, columns, recomputed)


def _training(tokens: int, lora: LoraConfig | None, load: Load) -> Passes:
    again = tokens if load.recomputed else 0
    return Passes(tokens + again, tokens, 0) if lora is None else Passes(tokens + again, 0, tokens)
