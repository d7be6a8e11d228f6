"""Optimizers: AdamW, Adam, SGD, or Muon for hidden matrices and AdamW for the rest.

All are torch's own, with two parameter groups: matrices, and parameters without decay. Embeddings,
norms and biases have no weight decay.

The update of Muon is its momentum with all singular values brought near 1 by five Newton-Schulz
steps (Jordan 2024), in bf16. torch's implementation is scaled by 0.2 sqrt(max(rows, columns)), so
that the RMS of updates equals that of AdamW and both use the same learning rate (arXiv 2502.16982,
2.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from training.optim.config import OptimizerConfig
from training.optim.gradients import is_split

EMBEDDINGS = ("embed_tokens.weight", "lm_head.weight")
SCALAR_HEAD = "score.weight"  # a single row, which cannot be orthogonalised


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
    split = any(is_split(weight) for group in groups for weight in group["params"])
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
