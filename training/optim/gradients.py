"""From gradients to a step: sum over ranks, clip, apply.

Losses are local sums over a **global** count, so ranks' gradients add up to the gradient of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from training.optim.ranks import Ranks


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    clip: float,
    ranks: Ranks,
) -> float:
    """One optimizer step; gradients are cleared afterwards.

    Returns:
        the norm of the whole gradient before clipping.
    """
    for parameter in parameters:
        if parameter.grad is None:  # every rank must join every sum
            parameter.grad = torch.zeros_like(parameter)
        ranks.sum(parameter.grad)
    norm = nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
