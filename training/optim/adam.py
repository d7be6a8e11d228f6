"""The optimizer's settings, and AdamW with two parameter groups: matrices decay; embeddings, norms
and biases do not.

With `algorithm="muon"` Muon has the hidden matrices, and AdamW keeps what is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from training.errors import ConfigError
from training.optim.muon import MuonWithAdamW, muon_for
from training.ranges import (
    CountOrZero,
    Fraction,
    FractionAboveZero,
    FractionBelowOne,
    Limit,
    NonNegative,
    Positive,
    check_ranges,
)

EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")
SCALAR_HEAD = "score.weight"  # one row: nothing to orthogonalise
ALGORITHMS = ("adamw", "muon")
SCHEDULES = ("linear", "cosine", "constant", "wsd")
COOLDOWNS = ("linear", "sqrt")


@dataclass(frozen=True)
class OptimizerConfig:
    """Rates are per step. After the warm-up the rate falls to final_fraction of its peak; with
    `wsd` only over the last cooldown_fraction of all steps (schedule.py). Muon takes learning_rate
    and weight_decay as they are for AdamW (muon.py).

    Attributes:
        learning_rate: at its peak, above 0
        schedule: how the rate falls after the warm-up: linear, cosine, constant (not at all), or
            wsd (only at the end)
        warmup_fraction: share of all steps in which the rate rises from 0, in [0, 1)
        warmup_steps: the same in steps, at least 0; none: warmup_fraction decides
        final_fraction: share of the peak that the rate falls to, in [0, 1]
        cooldown_fraction: wsd's: share of all steps in which the rate falls, in (0, 1]
        cooldown: wsd's: how it falls, linear or sqrt
        weight_decay: share of a matrix's weights that a step takes off, times the rate; at least 0
        algorithm: adamw, or muon for the hidden matrices and adamw for the rest
        betas: AdamW's memory of gradients and of their squares, in [0, 1) each
        epsilon: AdamW's, added to the root of the squares; above 0
        muon_momentum: Muon's memory of gradients, in [0, 1)
        gradient_clip: norm of all gradients together, above which they are scaled down to it; above
            0
    """

    learning_rate: Positive = 1e-4
    schedule: str = "linear"
    warmup_fraction: FractionBelowOne = 0.03
    warmup_steps: CountOrZero | None = None
    final_fraction: Fraction = 0.1
    cooldown_fraction: FractionAboveZero = (
        0.2  # wsd's; 10-20 % are enough (arXiv 2405.18392, figure 5)
    )
    cooldown: str = "sqrt"
    weight_decay: NonNegative = 0.0
    algorithm: str = "adamw"
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.95)
    epsilon: Positive = (
        1e-5  # PPO's Adam, "N implementation details"; larger than the default on purpose
    )
    muon_momentum: FractionBelowOne = 0.95  # arXiv 2502.16982
    gradient_clip: Limit = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)
        for field, known in (
            ("schedule", SCHEDULES),
            ("algorithm", ALGORITHMS),
            ("cooldown", COOLDOWNS),
        ):
            if (value := getattr(self, field)) not in known:
                raise ConfigError(
                    f"{field}: {value!r} is not one of {', '.join(known)}",
                    field=field,
                    reason="UNKNOWN",
                    limit=", ".join(known),
                )
        falls, climbs = (
            self.cooldown_fraction,
            self.warmup_fraction if self.warmup_steps is None else 0.0,
        )
        if self.schedule == "wsd" and falls + climbs > 1:
            raise ConfigError(
                f"cooldown_fraction: {falls:g} after a warmup_fraction of {climbs:g} is more than all steps",
                field="cooldown_fraction",
                reason="TOO_LARGE",
                limit=f"at most {1 - climbs:g}",
            )


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """The optimizer of the trainable parameters, which must be where they are trained. On an
    accelerator AdamW's step is one kernel that counts there: the usual one would ask the
    accelerator for its counter at every step.
    """
    hidden: list[nn.Parameter] = []
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        plain = parameter.ndim >= 2 and not name.endswith(EMBEDDINGS)
        if plain and config.algorithm == "muon" and not name.endswith(SCALAR_HEAD):
            hidden.append(parameter)
        else:
            (decayed if plain else kept).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    adamw = None
    if groups:
        rate, betas = config.learning_rate, config.betas
        # One kernel for a weight's step, where torch would choose ten. It refuses split weights
        # beside whole ones: a head beside shards.
        split = any(isinstance(parameter, DTensor) for parameter in (*decayed, *kept))
        adamw = torch.optim.AdamW(
            groups, lr=rate, betas=betas, eps=config.epsilon, fused=None if split else True
        )
    if adamw is not None and not hidden:
        return adamw
    return MuonWithAdamW(muon_for(hidden, config.weight_decay, config.muon_momentum), adamw)
