"""Plan of a recipe: memory and time of each stage on the given GPUs.

A stage that does not fit is an error with its largest part and a layout that fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from training.errors import ConfigError, details_of
from training.evaluation.config import EvaluationConfig
from training.model.config import ModelConfig, parse_config
from training.planning.accelerators import GIB, Accelerator
from training.planning.layout import Layout
from training.planning.memory import MemoryKind, Part, Phase, peak, phases
from training.planning.serving import rollout_server
from training.planning.stage import DataSize, PlannedStage
from training.planning.step import FP32, Work
from training.planning.timing import TimeItem, longest_kind, time_of
from training.planning.work import evaluation_work, work_of
from training.runtime.context import Parallelism
from training.stages.policy_config import PolicyConfig
from training.stages.pretrain_config import PretrainConfig

TENSORS = (1, 2, 4, 8)  # within a machine, because sums over a network are too slow


@dataclass(frozen=True)
class StagePlan:
    """Memory and time of a stage.

    Attributes:
        memory: peak phase.
        spent: time of a step (an update of PPO and GRPO) by kind.
    """

    name: str
    layout: Layout
    work: Work
    memory: Phase
    spent: tuple[TimeItem, ...]

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.spent)

    @property
    def tokens_per_second(self) -> float:
        return self.work.tokens * self.layout.data_size / self.layout.gpus / self.seconds

    @property
    def start_seconds(self) -> float:
        """Return the time until the stage's server answers, 0 without one."""
        server = None if self.work.sampled is None else self.work.sampled.server
        return 0.0 if server is None else server.start_seconds

    @property
    def hours(self) -> float:
        return (self.work.steps * self.seconds + self.start_seconds) / 3600

    @property
    def bound_by(self) -> str:
        return longest_kind(self.spent)


@dataclass(frozen=True)
class RecipePlan:
    """Plans of all stages of a recipe."""

    recipe: str
    accelerator: Accelerator
    gpus: int
    stages: tuple[StagePlan, ...]

    @property
    def hours(self) -> float:
        return sum(stage.hours for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return sum(stage.hours * stage.layout.gpus for stage in self.stages)


def plan_recipe(
    recipe: str,
    stages: Sequence[PlannedStage],
    model: ModelConfig,
    gpus: int,
    accelerator: Accelerator,
) -> RecipePlan:
    """Plan all stages.

    Raises:
        ConfigError: see `plan_stage`.
    """
    planned = tuple(plan_stage(stage, model, gpus, accelerator) for stage in stages)
    return RecipePlan(recipe, accelerator, gpus, planned)


def plan_stage(
    stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator
) -> StagePlan:
    """Plan a single stage.

    Args:
        model: shape of the model in model_directory. Pre-training has its own shape.

    Raises:
        ConfigError: the stage does not fit into the memory of the GPUs, or cannot be distributed
            over them. Names the stage, the largest part, and a layout that fits, if there is one.
    """
    try:
        planned = estimate_stage(stage, model, gpus, accelerator)
    except ConfigError as error:
        raise ConfigError(
            f"{stage.name}: {error}; {_advice(stage, model, gpus, accelerator)}",
            **details_of(error, f"{stage.name}."),
        ) from error
    if planned.memory.bytes > accelerator.usable_bytes:
        largest = planned.memory.largest
        raise ConfigError(
            f"{stage.name}: needs {planned.memory.bytes / GIB:.1f} GiB of each {accelerator.name}, "
            f"of which {accelerator.usable_bytes / GIB:.1f} are usable, with {planned.layout}, "
            f"at its peak, in: {planned.memory.name}; the largest part: {largest.name}, "
            f"{largest.bytes / GIB:.1f} GiB; {_advice(stage, model, gpus, accelerator)}",
            field=stage.name,
            reason="TOO_LARGE",
            limit=f"{accelerator.usable_bytes / GIB:.1f} GiB",
        )
    return planned


def estimate_evaluation(
    config: EvaluationConfig, data: DataSize, model: ModelConfig, accelerator: Accelerator
) -> StagePlan:
    """Return memory and time of the comparison of two versions, which one process does.

    The memory is that of the first accelerator, which also has embedding and head.
    """
    layout, work = Layout(1, Parallelism()), evaluation_work(config, data, model)
    narrow = work.narrow and not accelerator.is_cpu
    work = replace(work, narrow=narrow, stored_narrow=narrow)
    layers = -(-model.num_layers // config.devices) / model.num_layers
    outside = work.sizes.outside * FP32

    def on_first(part: Part) -> Part:
        if part.name is MemoryKind.FROZEN:
            return replace(part, bytes=outside + (part.bytes - outside) * layers)
        return replace(part, bytes=part.bytes * layers) if part.name is MemoryKind.CACHE else part

    shared = [
        replace(phase, parts=tuple(map(on_first, phase.parts))) for phase in phases(work, layout)
    ]
    memory = max(shared, key=lambda phase: phase.bytes)
    return StagePlan("evaluation", layout, work, memory, time_of(work, layout, accelerator))


def fitting_layouts(
    stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator
) -> Iterator[StagePlan]:
    """Yield plans of the stage for every layout that fits."""
    return (
        planned
        for planned in _layouts(stage, model, gpus, accelerator)
        if planned.memory.bytes <= accelerator.usable_bytes
    )


def _layouts(
    stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator
) -> Iterator[StagePlan]:
    """Yield plans of the stage for every layout that the model can be split into."""
    for tensor in TENSORS:
        for shard in range(1, gpus // tensor + 1):
            if gpus % (shard * tensor) == 0:
                with suppress(ConfigError):
                    yield estimate_stage(
                        stage.laid_out(shard=shard, tensor=tensor, pipeline=1),
                        model,
                        gpus,
                        accelerator,
                    )


def estimate_stage(
    stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator
) -> StagePlan:
    """Return memory and time of a stage, whether or not it fits.

    Raises:
        ConfigError: the stage cannot be distributed over these GPUs.
    """
    config = stage.config
    shape = parse_config(config.model_json) if isinstance(config, PretrainConfig) else model
    layout = Layout(gpus, config.parallelism)
    layout.check(shape, None if isinstance(config, PretrainConfig) else config.lora)
    work = work_of(config, stage.data, shape, layout)
    work = replace(work, stored_narrow=work.narrow and not accelerator.is_cpu)
    if isinstance(config, PolicyConfig) and work.sampled is not None:
        window = config.max_prompt_tokens + config.max_response_tokens
        server = rollout_server(
            config.rollout_server, shape, window, gpus, accelerator, config.lora
        )
        work = replace(work, sampled=replace(work.sampled, server=server))
    return StagePlan(
        stage.name, layout, work, peak(work, layout), time_of(work, layout, accelerator)
    )


def _advice(stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator) -> str:
    """Describe the fastest layout that fits, or how much memory the smallest layout lacks."""
    best = min(
        fitting_layouts(stage, model, gpus, accelerator),
        key=lambda planned: planned.seconds,
        default=None,
    )
    if best is not None:
        return f"{best.layout} would fit"
    none = f"no layout of {gpus} {accelerator.name} fits"
    least = min(
        _layouts(stage, model, gpus, accelerator),
        key=lambda planned: planned.memory.bytes,
        default=None,
    )
    if least is None:
        return none
    needed, usable = least.memory.bytes / GIB, accelerator.usable_bytes / GIB
    return (
        f"{none}: {least.layout} needs the least, {needed:.1f} GiB of each, "
        f"of which {usable:.1f} are usable"
    )
