"""The plan of a recipe: each stage's memory and time on so many GPUs, or a refusal that says what
is too large and what would fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from training.errors import ConfigError, details_of
from training.model.config import ModelConfig, parse_config
from training.planning.accelerators import GIB, Accelerator
from training.planning.layout import Layout
from training.planning.memory import Phase, peak
from training.planning.timing import Spent, spent_most, time_of
from training.planning.work import DataSize, StageConfig, Work, work_of
from training.stages.pretrain import PretrainConfig

TENSORS = (1, 2, 4, 8)  # within a machine: sums over a network would be waited for


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a recipe: the config that it runs with, and what it will read."""

    name: str
    config: StageConfig
    data: DataSize = field(default_factory=DataSize)

    def laid_out(self, **factors: int) -> PlannedStage:
        """The same with these of its Parallelism."""
        parallelism = replace(self.config.parallelism, **factors)
        return replace(self, config=replace(self.config, parallelism=parallelism))


@dataclass(frozen=True)
class StagePlan:
    """seconds: of a step (an update of PPO and GRPO). tokens_per_second: of one GPU, tokens learned
    from.
    """

    name: str
    layout: Layout
    work: Work
    memory: Phase
    spent: tuple[Spent, ...]

    @property
    def seconds(self) -> float:
        return sum(one.seconds for one in self.spent)

    @property
    def tokens_per_second(self) -> float:
        return self.work.tokens * self.layout.data_size / self.layout.gpus / self.seconds

    @property
    def hours(self) -> float:
        return self.work.steps * self.seconds / 3600

    @property
    def bound_by(self) -> str:
        return spent_most(self.spent)


@dataclass(frozen=True)
class RecipePlan:
    """All stages of a recipe, one after the other."""

    recipe: str
    accelerator: Accelerator
    gpus: int
    stages: tuple[StagePlan, ...]

    @property
    def hours(self) -> float:
        return sum(stage.hours for stage in self.stages)

    @property
    def gpu_hours(self) -> float:
        return self.hours * self.gpus


def plan_recipe(
    recipe: str,
    stages: Sequence[PlannedStage],
    model: ModelConfig,
    gpus: int,
    accelerator: Accelerator,
) -> RecipePlan:
    """The plan of all stages.

    Raises:
        ConfigError: see plan_stage.
    """
    planned = tuple(plan_stage(stage, model, gpus, accelerator) for stage in stages)
    return RecipePlan(recipe, accelerator, gpus, planned)


def plan_stage(
    stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator
) -> StagePlan:
    """The plan of one stage.

    Args:
        model: the shape of its model_directory. Pre-training says its own.

    Raises:
        ConfigError: the stage does not fit into the GPUs' memory, or cannot be shared among so
            many. Names the stage, the largest part, and a layout that fits, if one does.
    """
    try:
        planned = _planned(stage, model, gpus, accelerator)
    except ConfigError as error:
        raise ConfigError(
            f"{stage.name}: {error}; {_advice(stage, model, gpus, accelerator)}",
            **details_of(error, f"{stage.name}."),
        ) from error
    if planned.memory.bytes > accelerator.usable_bytes:
        largest = planned.memory.largest
        raise ConfigError(
            f"{stage.name}: needs {planned.memory.bytes / GIB:.1f} GiB of each {accelerator.name}, of which "
            f"{accelerator.usable_bytes / GIB:.1f} are usable, with {planned.layout}, at its peak, in: {planned.memory.name}; "
            f"the largest part: {largest.name}, {largest.bytes / GIB:.1f} GiB; {_advice(stage, model, gpus, accelerator)}",
            field=stage.name,
            reason="TOO_LARGE",
            limit=f"{accelerator.usable_bytes / GIB:.1f} GiB",
        )
    return planned


def fitting(
    stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator
) -> Iterator[StagePlan]:
    """The stage in every layout of so many GPUs that it fits into."""
    return (
        planned
        for planned in _layouts(stage, model, gpus, accelerator)
        if planned.memory.bytes <= accelerator.usable_bytes
    )


def _layouts(
    stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator
) -> Iterator[StagePlan]:
    """The stage in every layout of so many GPUs that the model can be split into."""
    for tensor in TENSORS:
        for shard in range(1, gpus // tensor + 1):
            if gpus % (shard * tensor) == 0:
                with suppress(ConfigError):
                    yield _planned(
                        stage.laid_out(shard=shard, tensor=tensor, pipeline=1),
                        model,
                        gpus,
                        accelerator,
                    )


def _planned(
    stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator
) -> StagePlan:
    config = stage.config
    shape = parse_config(config.model_json) if isinstance(config, PretrainConfig) else model
    layout = Layout(gpus, config.parallelism)
    layout.check(shape, None if isinstance(config, PretrainConfig) else config.lora)
    work = work_of(config, stage.data, shape, layout)
    return StagePlan(
        stage.name, layout, work, peak(work, layout), time_of(work, layout, accelerator)
    )


def _advice(stage: PlannedStage, model: ModelConfig, gpus: int, accelerator: Accelerator) -> str:
    """The fastest layout that fits; where none does, how much the one lacks that needs the least."""
    best = min(
        fitting(stage, model, gpus, accelerator), key=lambda planned: planned.seconds, default=None
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
    return f"{none}: {least.layout} needs the least, {needed:.1f} GiB of each, of which {usable:.1f} are usable"
