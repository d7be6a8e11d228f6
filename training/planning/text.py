"""A plan as people read it, and as programs do. Both say what it assumes: nobody should take it for
a measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.planning.accelerators import BF16_SHARE, GIB, SUSTAINED_SHARE, USABLE_MEMORY
from training.planning.memory import Taken
from training.planning.plan import RecipePlan, StagePlan

GAP = "  "
MIB = 1 << 20
FEWEST_HOURS = 0.1  # below, two digits of hours say nothing
ASSUMPTIONS = (
    "An estimate. No step was timed on a GPU, and this library's stages have only ever run on processors.",
    f"Memory: {USABLE_MEMORY:g} of what the driver reports is usable; rows are as long as the config lets them be, and all response.",
    f"Time: bf16 products at {BF16_SHARE:g} of the data sheet's dense peak (as torchtitan's 8B on H100), fp32 products, memory and "
    f"links at {SUSTAINED_SHARE:g} of theirs (assumed); rows of the mean lengths that the recipe names, responses sampled to their limit.",
    "The code as it is: FSDP gathers in bf16 and sums in fp32 for every microbatch; without shards autocast keeps bf16 copies of all "
    "projections; the head and sampling are in fp32.",
    "Attention by a fused kernel. With a mask and grouped queries CUDA may have none, and then scores of T x T a head are kept as well.",
    "Not counted: evaluation, checkpoints, starting, reading data, latencies, and launches of operations, which bound small models.",
)


def text(plan: RecipePlan, dollars_per_gpu_hour: float | None = None) -> str:
    """Two tables, the sum, and the assumptions."""
    accelerator = plan.accelerator
    unit = GIB if any(stage.memory.bytes >= GIB for stage in plan.stages) else MIB
    return "\n".join(
        (
            f"{plan.recipe} on {plan.gpus} x {accelerator.name}, {accelerator.usable_bytes / GIB:.1f} GiB of each usable",
            "",
            f"Memory of one GPU at its peak, {'GiB' if unit == GIB else 'MiB'}",
            *_aligned(_memory_rows(plan.stages, unit)),
            "",
            "Time",
            *_aligned(_time_rows(plan.stages)),
            "",
            _sum(plan, dollars_per_gpu_hour),
            "",
            *(f"- {line}" for line in ASSUMPTIONS),
            f"- {accelerator.name}: {accelerator.source}.",
        )
    )


def as_json(plan: RecipePlan, dollars_per_gpu_hour: float | None = None) -> dict[str, Any]:
    """The same in bytes and seconds."""
    return {
        "recipe": plan.recipe,
        "accelerator": plan.accelerator.name,
        "gpus": plan.gpus,
        "usable_bytes": plan.accelerator.usable_bytes,
        "stages": [_stage_json(stage) for stage in plan.stages],
        "hours": plan.hours,
        "gpu_hours": plan.gpu_hours,
        "dollars": None if dollars_per_gpu_hour is None else plan.gpu_hours * dollars_per_gpu_hour,
        "assumptions": [*ASSUMPTIONS, plan.accelerator.source],
    }


def _stage_json(stage: StagePlan) -> dict[str, Any]:
    layout = stage.layout
    return {
        "stage": stage.name,
        "copies": layout.copies,
        "shard": layout.shard,
        "tensor": layout.tensor,
        "peak_bytes": stage.memory.bytes,
        "peak_while": stage.memory.name,
        "parts_bytes": {part.name: part.bytes for part in stage.memory.parts},
        "steps": stage.work.steps,
        "seconds_per_step": stage.seconds,
        "spent_seconds": {one.name: one.seconds for one in stage.spent},
        "tokens_per_second_per_gpu": stage.tokens_per_second,
        "hours": stage.hours,
        "bound_by": stage.bound_by,
    }


def _memory_rows(stages: Sequence[StagePlan], unit: int) -> list[list[str]]:
    """A column for each part that any stage has."""
    taken_by = {part.name for stage in stages for part in stage.memory.parts}
    parts = [name for name in Taken if name in taken_by]
    rows = [["stage", "copies", "shard", "tensor", *parts, "peak", "while"]]
    for stage in stages:
        taken = {part.name: f"{part.bytes / unit:.1f}" for part in stage.memory.parts}
        layout = [
            str(number) for number in (stage.layout.copies, stage.layout.shard, stage.layout.tensor)
        ]
        peak = f"{stage.memory.bytes / unit:.1f}"
        rows.append(
            [
                stage.name,
                *layout,
                *(taken.get(part, "-") for part in parts),
                peak,
                stage.memory.name,
            ]
        )
    return rows


def _time_rows(stages: Sequence[StagePlan]) -> list[list[str]]:
    long = any(stage.hours >= FEWEST_HOURS for stage in stages)
    rows = [
        ["stage", "steps", "s a step", "tokens/s a GPU", "hours" if long else "seconds", "bound by"]
    ]
    for stage in stages:
        share = max(one.seconds for one in stage.spent) / stage.seconds
        numbers = [
            f"{stage.work.steps:,}",
            f"{stage.seconds:.3g}",
            f"{stage.tokens_per_second:,.0f}",
            f"{stage.hours:.2f}" if long else f"{stage.hours * 3600:.3g}",
        ]
        rows.append([stage.name, *numbers, f"{stage.bound_by} ({share:.0%})"])
    return rows


def _sum(plan: RecipePlan, dollars_per_gpu_hour: float | None) -> str:
    if plan.hours >= FEWEST_HOURS:
        whole = f"In all {plan.hours:.1f} hours, {plan.gpu_hours:.1f} GPU hours"
    else:
        whole = f"In all {plan.hours * 3600:.3g} seconds, {plan.gpu_hours * 3600:.3g} GPU seconds"
    if dollars_per_gpu_hour is None:
        return whole
    return f"{whole}, {plan.gpu_hours * dollars_per_gpu_hour:,.2f} dollars at {dollars_per_gpu_hour:.2f} a GPU hour"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """First and last column to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *numbers, last = row
        middle = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append(GAP.join((first.ljust(widths[0]), *middle, last)))
    return lines
