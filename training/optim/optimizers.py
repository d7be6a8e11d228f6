"""Optimizers: AdamW, Adam, SGD, or Muon for hidden matrices and AdamW for the rest; settings.

All are torch's own, with two parameter groups: matrices, and parameters without decay. Embeddings,
norms and biases have no weight decay.

The update of Muon is its momentum with all singular values brought near 1 by five Newton-Schulz
steps (Jordan 2024), in bf16. torch's implementation is scaled by 0.2 sqrt(max(rows, columns)), so
that the RMS of updates equals that of AdamW and both use the same learning rate (arXiv 2502.16982,
2.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from training.errors import ConfigError, unknown_choice
from training.runtime.ranges import (
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
SCALAR_HEAD = "score.weight"  # a single row, which cannot be orthogonalised
ALGORITHMS = ("adamw", "muon", "adam", "sgd")
SCHEDULES = ("linear", "cosine", "constant", "wsd")
COOLDOWNS = ("linear", "sqrt")


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of optimizer and schedule.

    Rates are per step. After the warm-up the rate falls to final_fraction of its peak; with `wsd`
    only over the last cooldown_fraction of all steps (`learning_rate_at`). Muon uses the
    same learning_rate and weight_decay as AdamW. Adam and SGD add weight_decay times the weight to
    the gradient (L2), so that Adam divides it by the root of the squares.

    Attributes:
        learning_rate: peak rate, above 0
        schedule: decay of the rate after the warm-up: linear, cosine, constant (no decay), or wsd
            (decay at the end only)
        warmup_fraction: fraction of all steps in which the rate rises from 0, in [0, 1)
        warmup_steps: the same in steps, at least 0; none: use warmup_fraction
        final_fraction: final rate as a fraction of the peak, in [0, 1]
        cooldown_fraction: for wsd: fraction of all steps in which the rate decays, in (0, 1]
        cooldown: for wsd: form of the decay, linear or sqrt
        weight_decay: fraction of each matrix that a step subtracts, times the rate; adam and sgd:
            added to the gradient instead; at least 0
        algorithm: adamw; muon for hidden matrices and adamw for the rest; adam; or sgd
        betas: for adamw and adam: decay of the averages of gradients and of their squares, in
            [0, 1) each
        epsilon: for adamw and adam: added to the root of the squares; above 0
        momentum: for muon and sgd: decay of the sum of past gradients, in [0, 1); sgd with 0 has
            no state
        gradient_clip: maximum norm of all gradients together; larger gradients are scaled down;
            above 0
    """

    learning_rate: Positive = 1e-4
    schedule: str = "linear"
    warmup_fraction: FractionBelowOne = 0.03
    warmup_steps: CountOrZero | None = None
    final_fraction: Fraction = 0.1
    cooldown_fraction: FractionAboveZero = 0.2  # 10-20 % are enough (arXiv 2405.18392, figure 5)
    cooldown: str = "sqrt"
    weight_decay: NonNegative = 0.0
    algorithm: str = "adamw"
    betas: tuple[FractionBelowOne, FractionBelowOne] = (0.9, 0.95)
    epsilon: Positive = (
        1e-5  # Adam of PPO, "N implementation details"; intentionally larger than torch's default
    )
    momentum: FractionBelowOne = 0.95  # arXiv 2502.16982
    gradient_clip: Limit = 1.0

    def __post_init__(self) -> None:
        check_ranges(self)
        for field, known in (
            ("schedule", SCHEDULES),
            ("algorithm", ALGORITHMS),
            ("cooldown", COOLDOWNS),
        ):
            if (value := getattr(self, field)) not in known:
                raise unknown_choice(field, value, known)
        falls, climbs = (
            self.cooldown_fraction,
            self.warmup_fraction if self.warmup_steps is None else 0.0,
        )
        if self.schedule == "wsd" and falls + climbs > 1:
            raise ConfigError(
                f"cooldown_fraction: {falls:g} plus a warmup_fraction of {climbs:g} exceeds 1",
                field="cooldown_fraction",
                reason="TOO_LARGE",
                limit=f"at most {1 - climbs:g}",
            )

    @property
    def numbers_per_weight(self) -> tuple[int, int]:
        """Return how many numbers the optimizer stores per weight: in hidden matrices, elsewhere.

        Two averages of Adam, the momentum of Muon or SGD.
        """
        if self.algorithm == "sgd":
            return (1, 1) if self.momentum else (0, 0)
        return (1, 2) if self.algorithm == "muon" else (2, 2)


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> torch.optim.Optimizer:
    """Return the optimizer of the trainable parameters, which must be on their final device.

    Rates are set at every step. On an accelerator Adam runs as a fused kernel, because the default
    implementation waits for a step counter on the device.
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
    rest = _elementwise(groups, config) if groups else None
    if rest is not None and not hidden:
        return rest
    muon = torch.optim.Muon(
        hidden,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        adjust_lr_fn="match_rms_adamw",
        nesterov=True,
    )
    return MuonWithAdamW(muon, rest)


def _elementwise(groups: list[dict[str, Any]], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return SGD, Adam or AdamW, the last also for the weights that Muon does not train."""
    # A fused kernel per weight, where torch would use ten. The fused kernel rejects a mix of
    # DTensors and plain tensors, such as a head next to shards.
    split = any(isinstance(weight, DTensor) for group in groups for weight in group["params"])
    rate, fused = config.learning_rate, None if split else True
    if config.algorithm == "sgd":
        return torch.optim.SGD(groups, lr=rate, momentum=config.momentum, fused=fused)
    kind = torch.optim.Adam if config.algorithm == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, betas=config.betas, eps=config.epsilon, fused=fused)


class MuonWithAdamW(torch.optim.Optimizer):
    """Optimizer whose groups and state are shared by Muon and AdamW.

    They are therefore saved and loaded as those of a single optimizer. `adamw` is None if only
    matrices are trained, as with LoRA.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.Optimizer | None) -> None:
        self._parts: list[torch.optim.Optimizer] = [muon] if adamw is None else [muon, adamw]
        self._counts = [len(part.param_groups) for part in self._parts]
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state, then share it with both optimizers again."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step with both optimizers.

        `closure` is not supported.
        """
        for part in self._parts:
            part.step()

    def _share(self) -> None:
        start = 0
        for part, count in zip(self._parts, self._counts, strict=True):
            part.param_groups = self.param_groups[start : start + count]
            part.state = self.state
            start += count
