"""Muon for hidden matrices and AdamW for the rest, as a single optimizer with a single state.

The update of Muon is its momentum with all singular values brought near 1 by five Newton-Schulz
steps (Jordan 2024), in bf16. torch's implementation is scaled by 0.2 sqrt(max(rows, columns)), so
that the RMS of updates equals that of AdamW and both use the same learning rate (arXiv 2502.16982,
2.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def muon_for(
    matrices: Sequence[nn.Parameter], weight_decay: float, momentum: float
) -> torch.optim.Muon:
    """Return torch's Muon.

    The rate is set at every step.
    """
    return torch.optim.Muon(
        matrices,
        weight_decay=weight_decay,
        momentum=momentum,
        adjust_lr_fn="match_rms_adamw",
        nesterov=True,
    )


class MuonWithAdamW(torch.optim.Optimizer):
    """Optimizer whose groups and state are shared by Muon and AdamW.

    They are therefore saved and loaded as those of a single optimizer. `adamw` is None if only
    matrices are trained, as with LoRA.
    """

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW | None) -> None:
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
