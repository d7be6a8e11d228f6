"""Text and JSON of a plan.

Both state the assumptions, because plans are not measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.planning.accelerators import (
    BF16_SHARE,
    GIB,
    MIB,
    PROCESS_GIB,
    SUSTAINED_SHARE,
    USABLE_MEMORY,
)
from training.planning.memory import MemoryKind
from training.planning.plan import RecipePlan, StagePlan

GAP = "  "
FEWEST_HOURS = 0.1  # shorter times are shown in seconds
ASSUMPTIONS = (
    "An estimate. No step was timed on a GPU; the stages of this library have only run on CPUs.",
    f"Memory: {USABLE_MEMORY:g} of the memory that the driver reports is usable; rows have the "
    "maximum length of the config, and consist of response only.",
    f"Time: bf16 products at {BF16_SHARE:g} of the data sheet's dense peak (as torchtitan's 8B on "
    f"H100), fp32 products, memory and links at {SUSTAINED_SHARE:g} of theirs (assumed); rows have "
    "the mean lengths of the recipe, responses are sampled to their limit.",
    "Implementation: FSDP gathers in bf16 and sums in fp32 for every microbatch; without shards "
    "autocast stores bf16 copies of trained projections; frozen ones are stored in bf16. The head "
    "is in fp32, and so is sampling in full training.",
    "Attention uses a fused kernel. With a mask and grouped queries CUDA may have none; in this "
    "case scores of T x T per head are stored too.",
    "Not counted: the memory of the machine itself, into which each worker first loads the whole "
    "model in fp32; evaluation except a row of that name, checkpoints, start, reading of data, "
    "latencies, and kernel launches, which dominate for small models.",
)
CPU_ASSUMPTIONS = (
    "An estimate. PPO of a measured run of the recipe small took 0.6 times its plan.",
    f"Memory: {USABLE_MEMORY:g} of the memory is usable, less {PROCESS_GIB:g} GiB of the process; "
    "rows have the maximum length of the config, and consist of response only.",
    "Time: rows have the mean lengths of the data, responses are sampled to their limit, by a "
    "quarter of the cores; users of the same machine have priority.",
    "Not counted: probes and benchmarks of the gate, checkpoints, start, reading of data.",
)


def text(plan: RecipePlan, dollars_per_gpu_hour: float | None = None) -> str:
    """Return two tables, the sum, and the assumptions."""
    accelerator = plan.accelerator
    if plan.hours >= FEWEST_HOURS:
        total, of_gpus = f"In all {plan.hours:.1f} hours", f", {plan.gpu_hours:.1f} GPU hours"
    else:
        total = f"In all {plan.hours * 3600:.3g} seconds"
        of_gpus = f", {plan.gpu_hours * 3600:.3g} GPU seconds"
    unit_name = "process" if accelerator.is_cpu else "GPU"
    total += "" if accelerator.is_cpu else of_gpus
    if dollars_per_gpu_hour is not None:
        dollars = f"{plan.gpu_hours * dollars_per_gpu_hour:,.2f} dollars"
        total = f"{total}, {dollars} at {dollars_per_gpu_hour:.2f} a GPU hour"
    unit = GIB if any(stage.memory.bytes >= GIB for stage in plan.stages) else MIB
    return "\n".join(
        (
            f"{plan.recipe} on {plan.gpus} x {accelerator.name}, "
            f"{accelerator.usable_bytes / GIB:.1f} GiB of each usable",
            "",
            f"Memory of one {unit_name} at its peak, {'GiB' if unit == GIB else 'MiB'}",
            *_aligned(_memory_rows(plan.stages, unit)),
            "",
            "Time",
            *_aligned(_time_rows(plan.stages, unit_name)),
            "",
            total,
            "",
            *(f"- {line}" for line in _assumptions(plan)),
            f"- {accelerator.name}: {accelerator.source}.",
        )
    )


def as_json(plan: RecipePlan, dollars_per_gpu_hour: float | None = None) -> dict[str, Any]:
    """Return the plan as JSON, in bytes and seconds."""
    return {
        "recipe": plan.recipe,
        "accelerator": plan.accelerator.name,
        "gpus": plan.gpus,
        "usable_bytes": plan.accelerator.usable_bytes,
        "stages": [
            {
                "stage": stage.name,
                "copies": stage.layout.copies,
                "shard": stage.layout.shard,
                "tensor": stage.layout.tensor,
                "peak_bytes": stage.memory.bytes,
                "peak_while": stage.memory.name,
                "parts_bytes": {part.name: part.bytes for part in stage.memory.parts},
                "steps": stage.work.steps,
                "seconds_per_step": stage.seconds,
                "spent_seconds": {one.name: one.seconds for one in stage.spent},
                "tokens_per_second_per_gpu": stage.tokens_per_second,
                "start_seconds": stage.start_seconds,
                "hours": stage.hours,
                "bound_by": stage.bound_by,
            }
            for stage in plan.stages
        ],
        "hours": plan.hours,
        "gpu_hours": plan.gpu_hours,
        "dollars": None if dollars_per_gpu_hour is None else plan.gpu_hours * dollars_per_gpu_hour,
        "assumptions": [*_assumptions(plan), plan.accelerator.source],
    }


def _assumptions(plan: RecipePlan) -> tuple[str, ...]:
    return CPU_ASSUMPTIONS if plan.accelerator.is_cpu else ASSUMPTIONS


def _memory_rows(stages: Sequence[StagePlan], unit: int) -> list[list[str]]:
    """Return the rows of the memory table, with a column for each kind that any stage has."""
    taken_by = {part.name for stage in stages for part in stage.memory.parts}
    parts = [name for name in MemoryKind if name in taken_by]
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


def _time_rows(stages: Sequence[StagePlan], unit_name: str) -> list[list[str]]:
    long = any(stage.hours >= FEWEST_HOURS for stage in stages)
    rows = [
        [
            "stage",
            "steps",
            "s a step",
            f"tokens/s a {unit_name}",
            "hours" if long else "seconds",
            "bound by",
        ]
    ]
    for stage in stages:
        share = max(one.seconds for one in stage.spent) / stage.seconds
        numbers = [
            f"{stage.work.steps:,}",
            _rounded(stage.seconds),
            f"{stage.tokens_per_second:,.0f}",
            f"{stage.hours:.2f}" if long else _rounded(stage.hours * 3600),
        ]
        rows.append([stage.name, *numbers, f"{stage.bound_by} ({share:.0%})"])
    return rows


def _rounded(seconds: float) -> str:
    return f"{seconds:,.0f}" if seconds >= 1000 else f"{seconds:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the first and last column to the left, and numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *numbers, last = row
        middle = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append(GAP.join((first.ljust(widths[0]), *middle, last)))
    return lines
