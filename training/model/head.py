"""Scalar head on a hidden state: the score of a reward model, the value of a critic.

Shapes: B batch, T tokens, D hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class ScalarHead(nn.Module):
    """Linear head on hidden states normalised to unit RMS.

    The normalisation is needed because final norms have any scale (with Gemma 3's, the first loss
    was 237 instead of ln 2). Weights start at std 1/sqrt(D+1) (N+ details, arXiv 2403.17031), or at
    zero for a critic without a reward model to start from.
    """

    def __init__(self, hidden_size: int, seed: int | None = None) -> None:
        super().__init__()
        self.score = nn.Linear(hidden_size, 1)
        with torch.no_grad():
            self.score.weight.zero_()
            self.score.bias.zero_()
            if seed is not None:
                drawn = torch.empty(1, hidden_size, device="cpu")
                generator = torch.Generator().manual_seed(seed)
                self.score.weight.copy_(
                    drawn.normal_(0.0, 1 / math.sqrt(hidden_size + 1), generator=generator)
                )

    def forward(self, hidden: Tensor) -> Tensor:
        """Map [..., D] to [...], in fp32 even under autocast, since bf16 would tie close scores."""
        with torch.autocast(hidden.device.type, enabled=False):
            even = functional.rms_norm(hidden.float(), hidden.shape[-1:])
            scalar: Tensor = self.score(even).squeeze(-1)
        return scalar


def last_real_column(mask_BT: Tensor) -> Tensor:
    """Return the index of the right-most real token per row, [B].

    Reward models read their scores there.
    """
    columns = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (mask_BT.long() * columns).amax(dim=1)
