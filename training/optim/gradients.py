"""From gradients to a step: sum over ranks, clip, apply; or stop where they are not finite.

Losses are local sums over a **global** count, so ranks' gradients add up to the gradient of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from training.optim.ranks import Ranks


class NonFiniteError(ValueError):
    """A gradient is NaN or infinite, and with it whatever would be learned from it: nothing was changed, and the last checkpoint is
    the last good one. Not worth a retry: the same step gives the same gradient.
    """


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    learning_rate: float,
    clip: float,
    ranks: Ranks,
    at: str = "",
) -> float:
    """One optimizer step; gradients are cleared afterwards.

    Args:
        at: what an error says of the place, as "step 7, loss nan".

    Returns:
        the norm of the whole gradient before clipping.

    Raises:
        NonFiniteError: it is not finite, here and on every other rank: they have summed the same. A loss that is not finite has no
            finite gradient either, so that the norm tells of both.
    """
    for parameter in parameters:
        if parameter.grad is None:  # every rank must join every sum
            parameter.grad = torch.zeros_like(parameter)
        ranks.sum(parameter.grad)
    norm = float(nn.utils.clip_grad_norm_(parameters, clip))
    if not math.isfinite(norm):
        raise NonFiniteError(f"{at or 'a step'}: the gradient's norm is {norm}; nothing was changed")
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
