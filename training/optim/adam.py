"""AdamW with two parameter groups: matrices decay; embeddings, norms and biases do not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")


@dataclass(frozen=True)
class OptimizerConfig:
    """Rates are per step. warmup_fraction is of all steps; after it the rate falls to final_fraction of its peak."""

    learning_rate: float = 1e-4
    schedule: str = "linear"  # linear, cosine or constant
    warmup_fraction: float = 0.03
    final_fraction: float = 0.1
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-5  # PPO's Adam, "N implementation details"; larger than the default on purpose
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "cosine", "constant"):
            raise ValueError(f"schedule: {self.schedule!r} is not one of linear, cosine, constant")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(f"warmup_fraction: {self.warmup_fraction} is not in [0, 1)")


def build_optimizer(named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            plain = parameter.ndim >= 2 and not name.endswith(EMBEDDINGS)
            (decayed if plain else kept).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.epsilon,
    )
