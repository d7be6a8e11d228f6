"""From gradients to a step: sum over ranks, clip, apply; or stop where they are not finite.

Losses are local sums over a **global** count, so ranks' gradients add up to the gradient of the
whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Placement

from training.errors import DetailedError
from training.optim.ranks import Ranks

EXCLUDED_FROM_NORM = (
    "counted_elsewhere"  # attribute of a copy of a weight that another worker counts in the norm
)
PARTIAL_OVER_HEADS = (
    "of_own_heads"  # of a weight that all peers have, each with the gradient of its own heads alone
)


class NonFiniteError(DetailedError, ValueError):
    """A gradient is NaN or infinite, and with it whatever would be learned from it: nothing was
    changed, and the last checkpoint is the last good one. Not worth a retry: the same step gives
    the same gradient.
    """

    reason = "NOT_FINITE"


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    clip: float,
    ranks: Ranks,
    at: str | Callable[[], str] = "",
) -> float:
    """One optimizer step; gradients are cleared afterwards.

    Args:
        at: what an error says of the place, as "step 7, loss nan"; or who is asked for it then.

    Returns:
        the norm of the whole gradient before clipping.

    Raises:
        NonFiniteError: it is not finite, here and on every other rank: they have summed the same. A
            loss that is not finite has no finite gradient either, so that the norm tells of both.
    """
    for parameter in parameters:
        if parameter.grad is None:  # every rank must join every sum
            parameter.grad = torch.zeros_like(parameter)
        if not isinstance(parameter.grad, DTensor):  # what is split was summed by what split it
            ranks.sum(parameter.grad)
        if hasattr(parameter, PARTIAL_OVER_HEADS):
            ranks.sum_of_peers(_local(parameter.grad))
    norm = clip_gradients(parameters, clip, ranks)
    if not math.isfinite(norm):
        where = at if isinstance(at, str) else at()
        raise NonFiniteError(
            f"{where or 'a step'}: the gradient's norm is {norm}; nothing was changed",
            field="gradient",
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def clip_gradients(parameters: Sequence[nn.Parameter], clip: float, ranks: Ranks) -> float:
    """Scale all gradients so that their norm is at most `clip`; return what it was. Every worker
    gets the same, whatever part it holds: torch's own refuses gradients that are split in different
    ways.
    """
    counted = [
        parameter.grad for parameter in parameters if not hasattr(parameter, EXCLUDED_FROM_NORM)
    ]
    norm = global_norm([gradient for gradient in counted if gradient is not None], ranks)
    scale = (clip / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(
        [_local(parameter.grad) for parameter in parameters if parameter.grad is not None], scale
    )
    return float(norm)


def global_norm(gradients: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """Norm of all gradients as one vector: squares are added up over the workers that hold
    different parts of them.
    """
    by_split: dict[tuple[DeviceMesh, tuple[Placement, ...]] | None, list[Tensor]] = {}
    for gradient in gradients:
        split = (
            (gradient.device_mesh, tuple(gradient.placements))
            if isinstance(gradient, DTensor)
            else None
        )
        by_split.setdefault(split, []).append(_local(gradient))
    parts = []
    for split, held in by_split.items():
        norms = torch._foreach_norm(held, dtype=torch.float32)
        square = torch.linalg.vector_norm(torch.stack(norms)).square()
        if split is not None:
            mesh, placements = split
            for dimension, placement in enumerate(placements):
                if not placement.is_replicate():
                    dist.all_reduce(square, group=mesh.get_group(dimension))
        parts.append(square)
    total = torch.stack(parts).sum()
    if ranks.pipeline is not None:
        dist.all_reduce(total, group=ranks.pipeline)
    return total.sqrt()


def _local(gradient: Tensor) -> Tensor:
    """The part of a gradient that this worker holds."""
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
