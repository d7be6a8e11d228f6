"""A scalar read from a hidden state: the score of a reward model, the value of a critic.

Shapes: B batch, T tokens, D hidden.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class ScalarHead(nn.Module):
    """One linear output of the hidden state at unit RMS: a final norm may give any scale (Gemma 3's
    made a first loss of 237, where ln 2 is right). Starts at std 1/sqrt(D+1) (N+ details, arXiv
    2403.17031) or, for a critic without a reward model to start from, at zero.
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
        """[..., D] to [...], in fp32 even under autocast: bf16 would make ties of close scores."""
        with torch.autocast(hidden.device.type, enabled=False):
            even = functional.rms_norm(hidden.float(), hidden.shape[-1:])
            scalar: Tensor = self.score(even).squeeze(-1)
        return scalar


def last_real_column(mask_BT: Tensor) -> Tensor:
    """Index of each row's right-most real token, [B]: where a reward model reads its score."""
    columns = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (mask_BT.long() * columns).amax(dim=1)
