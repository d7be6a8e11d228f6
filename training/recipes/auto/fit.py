"""Search for the layout and the batches of each stage that fit the hardware.

Stages are independent, because each has its own layout. A layout with more rows at once is never
slower, so only the largest batch that fits is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from training.errors import ConfigError, details_of
from training.evaluation.config import EvaluationConfig
from training.model.config import ModelConfig
from training.planning.accelerators import GIB, MIB, NODE_GPUS
from training.planning.collected import CollectedData
from training.planning.hardware import Hardware
from training.planning.plan import (
    TENSORS,
    RecipePlan,
    StagePlan,
    estimate_evaluation,
    estimate_stage,
)
from training.planning.serving import with_spare_memory
from training.planning.stage import DataSize, PlannedStage
from training.recipes.auto.values import SERVER
from training.recipes.custom.assignments import assigned, fields_named
from training.recipes.custom.recipe_file import FIXED, of_stage
from training.recipes.recipe import LoopConfig, Plan
from training.runtime.context import Parallelism
from training.serving.rollout_server import RolloutServer, ServerEngine

FEWEST_ROLLOUTS = 640  # of a run: nano, whose ten updates of 64 prompts were enough
FEWEST_PROMPTS = 8  # of an update
IMPORTANCE_CAP = 2.0  # truncated importance weights for rollouts of a server in bf16
FIXED_STAGES = {"sft": "rows", "reward_model": "pairs", "judge": "pairs"}


@dataclass(frozen=True)
class Fitted:
    """A configuration whose stages fit, with their plans."""

    config: LoopConfig
    planned: RecipePlan


@dataclass(frozen=True)
class Refusal:
    """Reason why a configuration does not fit.

    Attributes:
        field, limit: of the error.
        lacking: needed memory or time, as a multiple of what is there.
        fits_memory: only time is lacking.
    """

    text: str
    field: str
    limit: str
    lacking: float
    fits_memory: bool = False


@dataclass(frozen=True)
class _Choice:
    """A stage with chosen layout and batches, and its plan."""

    stage: PlannedStage
    plan: StagePlan


def fit(
    config: LoopConfig,
    plan: Plan,
    model: ModelConfig,
    data: CollectedData,
    hardware: Hardware,
    served: bool = False,
) -> Fitted | Refusal:
    """Return the configuration with layouts and batches, or the reason why it does not fit.

    Args:
        served: vLLM may sample for PPO.
    """
    sizes = data_sizes(config, data)
    # First, because a model too large for one GPU there fits no number of GPUs.
    evaluated = _evaluation(config, sizes.pop("evaluation"), plan, model, hardware)
    if isinstance(evaluated, Refusal):
        return evaluated
    changed: dict[str, Any] = {"evaluation": evaluated[0]}
    plans: list[StagePlan] = []
    for name, size in sizes.items():
        stage = PlannedStage(name, getattr(config, name), size)
        found = _fastest(stage, _batches(stage, hardware), plan.assignments, model, hardware)
        if isinstance(found, Refusal) and name == "ppo" and served:
            found = _served(stage, found, plan, model, hardware)
        if isinstance(found, Refusal):
            return found
        if name == "ppo":
            found = _with_server_memory(found, model, hardware)
        changed[name] = found.stage.config
        plans.append(found.plan)
    whole = RecipePlan(config.name, hardware.accelerator, hardware.count, (*plans, evaluated[1]))
    fitted = replace(
        config,
        **changed,
        num_workers=hardware.count,
        fewest_workers=hardware.fewest,
        gpus_per_worker=0 if hardware.accelerator.is_cpu else 1,
    )
    return _in_time(fitted, whole, plan, hardware)


def _evaluation(
    config: LoopConfig, size: DataSize, plan: Plan, model: ModelConfig, hardware: Hardware
) -> tuple[EvaluationConfig, StagePlan] | Refusal:
    """Return the evaluation with the largest batch of prompts that fits, on the fewest devices.

    The process of the loop sees the accelerators of one machine.
    """
    evaluation, usable = config.evaluation, hardware.accelerator.usable_bytes
    most, named = evaluation.sampling.batch_prompts, fields_named(plan.assignments)
    batches = (most,) if "evaluation.sampling.batch_prompts" in named else (*_halved(most, 1),)
    alone = hardware.accelerator.is_cpu or "evaluation.devices" in named
    counts = (evaluation.devices,) if alone else range(1, min(hardware.count, NODE_GPUS) + 1)
    for devices in counts:
        for prompts in batches:
            sampling = replace(evaluation.sampling, batch_prompts=prompts)
            evaluation = replace(evaluation, sampling=sampling, devices=devices)
            planned = estimate_evaluation(evaluation, size, model, hardware.accelerator)
            if planned.memory.bytes <= usable:
                return evaluation, planned
    return _too_large(planned, "one", hardware)


def _served(
    stage: PlannedStage, refusal: Refusal, plan: Plan, model: ModelConfig, hardware: Hardware
) -> _Choice | Refusal:
    """Return PPO with rollouts by vLLM on the fewest GPUs that divide the model, or the refusal.

    Sampling by the workers themselves needs the whole model on each of them.
    """
    ppo: Any = stage.config
    named = fields_named(plan.assignments)
    server = ppo.rollout_server or RolloutServer()
    is_started = server.engine is ServerEngine.VLLM and server.address is None
    if hardware.accelerator.is_cpu or ppo.vocabulary_rows is not None or not is_started:
        return refusal
    if f"{SERVER}.gpus" in named:
        return refusal
    for count in (count for count in TENSORS if count <= hardware.count):
        server = replace(server, gpus=tuple(range(count)))
        cap = ppo.importance_cap or IMPORTANCE_CAP
        served = replace(stage, config=replace(ppo, rollout_server=server, importance_cap=cap))
        with suppress(ConfigError):
            found = _fastest(served, _batches(served, hardware), plan.assignments, model, hardware)
            if isinstance(found, _Choice):
                return found
    return refusal


def _with_server_memory(choice: _Choice, model: ModelConfig, hardware: Hardware) -> _Choice:
    """Give a started vLLM the memory of its GPUs that training leaves, unless it is assigned."""
    ppo: Any = choice.stage.config
    server, sampled = ppo.rollout_server, choice.plan.work.sampled
    if server is None or server.gpu_memory is not None or sampled is None:
        return choice
    if sampled.server is None or not sampled.server.shared_bytes:
        return choice
    accelerator = hardware.accelerator
    spare = accelerator.usable_bytes - choice.plan.memory.bytes + sampled.server.shared_bytes
    window = ppo.max_prompt_tokens + ppo.max_response_tokens
    server = with_spare_memory(server, model, window, spare, accelerator, ppo.lora)
    stage = replace(choice.stage, config=replace(ppo, rollout_server=server))
    return _Choice(stage, estimate_stage(stage, model, min(hardware.sizes), accelerator))


def data_sizes(config: LoopConfig, data: CollectedData) -> dict[str, DataSize]:
    """Return the sizes of the data of each step, in order of the run.

    No row is longer than the limits, so neither are the means.
    """
    ppo = config.ppo

    def size(rows: int) -> DataSize:
        return DataSize(
            max(1, rows),
            min(data.prompt.mean, ppo.max_prompt_tokens),
            min(max(1.0, data.response.mean), ppo.max_response_tokens),
            mix_tokens=data.mix_tokens or None,
        )

    return {
        "sft": size(data.sft_examples),
        "reward_model": size(data.pairs),
        "judge": size(data.judge_pairs),
        "ppo": size(data.prompts),
        "evaluation": size(data.held_out_prompts),
    }


def _in_time(
    config: LoopConfig, planned: RecipePlan, plan: Plan, hardware: Hardware
) -> Fitted | Refusal:
    """Reduce the updates of PPO to the longest run, or return the refusal of a longer one."""
    ppo = config.ppo
    spare = plan.max_hours - planned.hours
    if spare >= 0:
        return Fitted(config, planned)
    (update,) = (stage for stage in planned.stages if stage.name == "ppo")
    allowed = ppo.updates - int(-spare * 3600 / update.seconds) - 1
    fewest = -(-FEWEST_ROLLOUTS // ppo.prompts_per_update)
    if allowed < min(fewest, ppo.updates) or "ppo.updates" in fields_named(plan.assignments):
        shortest = planned.hours - max(0, ppo.updates - fewest) * update.seconds / 3600
        slowest = max(planned.stages, key=lambda stage: stage.hours)
        return Refusal(
            f"the run takes {shortest:.0f} hours on {hardware}, most of them in {slowest.name}, "
            f"and at most {plan.max_hours:g} are allowed (--max-hours)",
            "max_hours",
            f"{plan.max_hours:g} hours",
            lacking=shortest / plan.max_hours,
            fits_memory=True,
        )
    shorter = replace(update, work=replace(update.work, steps=allowed))
    stages = tuple(shorter if stage is update else stage for stage in planned.stages)
    return Fitted(
        replace(config, ppo=replace(ppo, updates=allowed)), replace(planned, stages=stages)
    )


def _batches(stage: PlannedStage, hardware: Hardware) -> list[Mapping[str, int]]:
    """Return the fields that decide how many rows a worker holds, from most to fewest rows.

    Raises:
        ConfigError: assigned rows of PPO cannot be divided among the workers.
    """
    config: Any = stage.config
    if stage.name in FIXED_STAGES:
        unit = FIXED_STAGES[stage.name]
        rows = getattr(config, f"batch_{unit}") // min(hardware.sizes)
        return [{f"microbatch_{unit}": most} for most in _halved(max(1, rows), 1)]
    multiple, rollouts = hardware.row_multiple, config.updates * config.prompts_per_update
    # An operator may assign fewer.
    fewest = min(max(FEWEST_PROMPTS, multiple), config.prompts_per_update)
    batches: list[Mapping[str, int]] = [
        {
            "prompts_per_update": prompts,
            "minibatch_rows": rows,
            "updates": max(1, rollouts // prompts),
        }
        for prompts in _halved(config.prompts_per_update, fewest)
        for rows in _halved(min(prompts, config.minibatch_rows), multiple)
        if prompts % rows == 0 and rows % multiple == 0
    ]
    if not batches:
        raise ConfigError(
            f"ppo.minibatch_rows: {config.minibatch_rows} rows of {config.prompts_per_update} "
            f"prompts are not divided by {multiple}, the rows that the workers share",
            field="ppo.minibatch_rows",
            reason="NOT_DIVISIBLE",
            limit=f"a multiple of {multiple}",
        )
    return batches


def _halved(most: int, fewest: int) -> Iterator[int]:
    while most >= fewest:
        yield most
        if most % 2:
            if most > 1 and fewest == 1:
                yield 1
            return
        most //= 2


def _layouts(stage: PlannedStage, hardware: Hardware) -> Iterator[Mapping[str, Any]]:
    """Yield the fields of every layout that the workers allow, without and with recomputation."""
    most: int = hardware.most_parts
    tensors = TENSORS if getattr(stage.config, "lora", None) is None else (1,)
    for tensor in tensors:
        for shard in range(1, most // tensor + 1):
            if most % (shard * tensor) == 0:
                for recomputed in (False, True):
                    yield {
                        "parallelism": Parallelism(shard=shard, tensor=tensor),
                        "checkpoint_activations": recomputed,
                    }


def _fastest(
    stage: PlannedStage,
    batches: list[Mapping[str, int]],
    assignments: tuple[str, ...],
    model: ModelConfig,
    hardware: Hardware,
) -> _Choice | Refusal:
    """Return the fastest choice of the largest batches that fit, or the reason that none fits.

    Of stages on fixed texts, batches of different sizes give equal results, so all are compared;
    of PPO, the largest minibatch is preferred.
    """
    own = of_stage(stage.name, assignments)
    usable = hardware.accelerator.usable_bytes

    def choice(fields: Mapping[str, Any]) -> _Choice:
        config = replace(stage.config, **fields)
        chosen = replace(stage, config=assigned(config, own, FIXED) if own else config)
        # The smallest number of workers, whose part of the work is the largest.
        plan = estimate_stage(chosen, model, min(hardware.sizes), hardware.accelerator)
        return _Choice(chosen, plan)

    smallest, errors = [], []
    for layout in _layouts(stage, hardware):
        try:
            smallest.append((layout, choice({**layout, **batches[-1]})))
        except ConfigError as error:
            errors.append(error)
    if not smallest:
        raise ConfigError(f"{stage.name}: {errors[0]}", **details_of(errors[0], f"{stage.name}."))
    fitting = [layout for layout, one in smallest if one.plan.memory.bytes <= usable]
    if not fitting:
        least = min((one.plan for _, one in smallest), key=lambda planned: planned.memory.bytes)
        return _too_large(least, "each", hardware)
    found = []
    for fields in batches:
        for layout in list(fitting):
            with suppress(ConfigError):
                one = choice({**layout, **fields})
                if one.plan.memory.bytes <= usable:
                    found.append(one)
                    if stage.name in FIXED_STAGES:
                        fitting.remove(layout)
        if found and stage.name not in FIXED_STAGES:
            break
    # Of equally fast ones the simplest: without recomputation, with few parts.
    return min(found, key=_order)


def _order(choice: _Choice) -> tuple[float, bool, int]:
    config = choice.stage.config
    return (
        float(f"{choice.plan.seconds * choice.plan.work.steps:.3g}"),
        config.checkpoint_activations,
        config.parallelism.parts,
    )


def _too_large(least: StagePlan, which: str, hardware: Hardware) -> Refusal:
    memory, usable = least.memory, max(1.0, hardware.accelerator.usable_bytes)
    place = str(hardware) if hardware.count == 1 else f"{which} of {hardware}"
    divided = f", with {least.layout}" if least.layout.parallelism.parts > 1 else ""
    return Refusal(
        f"{least.name} needs at least {_size(memory.bytes)} on {place}, where {_size(usable)} are "
        f"usable{divided}; the largest part while {memory.name}: {memory.largest.name}, "
        f"{_size(memory.largest.bytes)}",
        least.name,
        _size(usable),
        lacking=memory.bytes / usable,
    )


def _size(number: float) -> str:
    return f"{number / GIB:.1f} GiB" if number >= GIB else f"{number / MIB:.0f} MiB"
