"""Optimizer steps from gradients: sum over ranks, check, clip, apply.

Losses are local sums divided by a **global** count, so the sum of the ranks' gradients is the
gradient of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from training.errors import DetailedError
from training.runtime.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement

# Attribute of a copy of a weight that another worker counts in the norm.
EXCLUDED_FROM_NORM = "excluded_from_norm"
# Attribute of a replicated weight whose gradient on each peer covers only the heads of the peer.
PARTIAL_OVER_HEADS = "partial_over_heads"


class NonFiniteError(DetailedError, ValueError):
    """A gradient is NaN or infinite.

    Weights are unchanged. The last checkpoint is still valid. A retry is useless, because the same
    step gives the same gradient.
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
    """Take one optimizer step, then clear the gradients.

    Args:
        at: description of the step for errors, such as "step 7, loss nan", or a function that
            returns it.

    Returns:
        norm: norm of the whole gradient before clipping.

    Raises:
        NonFiniteError: the norm is not finite, on this and every other rank, because all have the
            same sum. A loss that is not finite has a gradient that is not finite, so the norm
            covers both.
    """
    for parameter in parameters:
        if parameter.grad is None:  # every rank must take part in every sum
            parameter.grad = torch.zeros_like(parameter)
        if not is_split(parameter.grad):  # DTensors are already reduced
            ranks.sum(parameter.grad)
        if hasattr(parameter, PARTIAL_OVER_HEADS):
            ranks.sum_of_peers(own_part(parameter.grad))
    norm = clip_gradients(parameters, clip, ranks)
    if not math.isfinite(norm):
        where = at if isinstance(at, str) else at()
        raise NonFiniteError(
            f"{where or 'optimizer step'}: the gradient norm is {norm}; weights are unchanged",
            field="gradient",
        )
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def clip_gradients(parameters: Sequence[nn.Parameter], clip: float, ranks: Ranks) -> float:
    """Scale all gradients to a norm of at most `clip`; return the norm before.

    The result is the same on every worker. torch.nn.utils.clip_grad_norm_ rejects gradients with
    different placements.
    """
    counted = [
        parameter.grad for parameter in parameters if not hasattr(parameter, EXCLUDED_FROM_NORM)
    ]
    norm = global_norm([gradient for gradient in counted if gradient is not None], ranks)
    # The same epsilon as in torch.nn.utils.clip_grad_norm_.
    scale = (clip / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(
        [own_part(parameter.grad) for parameter in parameters if parameter.grad is not None], scale
    )
    return float(norm)


def global_norm(gradients: Sequence[Tensor], ranks: Ranks) -> Tensor:
    """Return the norm of all gradients as a single vector.

    Squares are summed over workers that hold different parts of a gradient.
    """
    # Gradients with the same placement share one exchange.
    by_split: dict[tuple[DeviceMesh, tuple[Placement, ...]] | None, list[Tensor]] = {}
    for gradient in gradients:
        split = (gradient.device_mesh, tuple(gradient.placements)) if is_split(gradient) else None
        by_split.setdefault(split, []).append(own_part(gradient))
    parts = []
    for split, held in by_split.items():
        norms = torch._foreach_norm(held, dtype=torch.float32)
        square = torch.linalg.vector_norm(torch.stack(norms)).square()
        if split is not None:
            mesh, placements = split
            for dimension, placement in enumerate(placements):
                # Replicas hold the same part, which counts once.
                if not placement.is_replicate():
                    dist.all_reduce(square, group=mesh.get_group(dimension))
        parts.append(square)
    total = torch.stack(parts).sum()
    if ranks.pipeline is not None:
        dist.all_reduce(total, group=ranks.pipeline)
    return total.sqrt()


def is_split(tensor: Tensor) -> TypeGuard[DTensor]:
    """Return True for a tensor of which each worker holds a part.

    The class is not compared, because its import takes most of a second in a single process, which
    has no such tensors.
    """
    return hasattr(tensor, "to_local")


def own_part(tensor: Tensor) -> Tensor:
    """Return the part of a tensor on this worker: all of it, unless it is split."""
    return tensor.to_local() if is_split(tensor) else tensor
