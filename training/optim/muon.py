"""Muon for hidden matrices beside AdamW for the rest, as one optimizer: one list of groups, one
state, one step.

Muon's update is its momentum with all singular values brought near 1 by five Newton-Schulz steps
(Jordan 2024), in bf16. Torch's own, scaled by 0.2 sqrt(max(rows, columns)) so that its RMS is
AdamW's: both take one learning rate (arXiv 2502.16982, 2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def muon_for(
    matrices: Sequence[nn.Parameter], weight_decay: float, momentum: float
) -> torch.optim.Muon:
    """Torch's Muon; its rate is set at every step."""
    return torch.optim.Muon(
        matrices,
        weight_decay=weight_decay,
        momentum=momentum,
        adjust_lr_fn="match_rms_adamw",
        nesterov=True,
    )


class MuonWithAdamW(torch.optim.Optimizer):
    """Groups and state are this object's, and both parts work on them: so they are written and read
    as one optimizer's. `adamw` None: nothing but matrices is trained, as with LoRA.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW | None) -> None:
        self._parts: list[torch.optim.Optimizer] = [muon] if adamw is None else [muon, adamw]
        self._counts = [len(part.param_groups) for part in self._parts]
        super().__init__([group for part in self._parts for group in part.param_groups], {})
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As every optimizer's."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of both. No closure: gradients are there."""
        for part in self._parts:
            part.step()

    def _share(self) -> None:
        start = 0
        for part, count in zip(self._parts, self._counts, strict=True):
            part.param_groups = self.param_groups[start : start + count]
            part.state = self.state
            start += count
