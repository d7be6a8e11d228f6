"""Transformations of logits before sampling: pure functions [B, V] to [B, V], and their order.

Order and ties follow transformers: penalty, temperature, top-k, top-p, min-p, each on the result of
the previous one.

Shapes: B rows, S tokens so far, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from training.decoding.rows import DecodingError

MAX_TEMPERATURE = 2.0  # the same limit as in services/contracts/limits.py
GREEDY_BELOW = 0.01  # as the generator; smaller divisors are numerically useless


@dataclass(frozen=True)
class Rules:
    """Sampling parameters with defaults that change nothing.

    With temperature 0 (greedy) only the repetition penalty has an effect.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        _check_range(
            "temperature",
            self.temperature,
            0 <= self.temperature <= MAX_TEMPERATURE,
            f"0 to {MAX_TEMPERATURE:g}",
        )
        _check_range("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 to 1")
        _check_range("top_k", self.top_k, self.top_k >= 0, "at least 0", ", which is all")
        _check_range("min_p", self.min_p, 0 <= self.min_p < 1, "0 to below 1")
        penalty = self.repetition_penalty
        _check_range(
            "repetition_penalty", penalty, 0 < penalty < math.inf, "above 0", "; 1 changes nothing"
        )

    @property
    def greedy(self) -> bool:
        """True if the likeliest token is selected without sampling."""
        return self.temperature < GREEDY_BELOW

    def apply(self, logits_BV: Tensor, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
        """Return the transformed logits, for sampling or (greedy) for argmax."""
        if self.repetition_penalty != 1:
            logits_BV = penalise(
                logits_BV, seen(ids_BS, mask_BS, logits_BV.shape[-1]), self.repetition_penalty
            )
        if self.greedy:
            return logits_BV
        logits_BV = logits_BV / self.temperature
        if self.top_k:
            logits_BV = keep_top_k(logits_BV, self.top_k)
        if self.top_p < 1:
            logits_BV = keep_top_p(logits_BV, self.top_p)
        if self.min_p:
            logits_BV = keep_min_p(logits_BV, self.min_p)
        return logits_BV


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """Keep the k likeliest tokens, including ties with the last (Fan et al., arXiv 1805.04833)."""
    least_B1 = logits_BV.topk(min(k, logits_BV.shape[-1])).values[:, -1:]
    return logits_BV.masked_fill(logits_BV < least_B1, -math.inf)


def keep_top_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep the nucleus, the fewest likeliest tokens with mass p.

    Source: Holtzman et al., arXiv 1904.09751.
    """
    ascending_BV, order_BV = logits_BV.sort()
    tail_BV = ascending_BV.softmax(-1).cumsum(-1) <= 1 - p
    # The likeliest token is always kept, also for a very small p.
    tail_BV[:, -1] = False
    return logits_BV.masked_fill(tail_BV.scatter(1, order_BV, tail_BV), -math.inf)


def keep_min_p(logits_BV: Tensor, p: float) -> Tensor:
    """Keep tokens at least p times as likely as the likeliest (Nguyen et al., arXiv 2407.01082)."""
    probabilities_BV = logits_BV.softmax(-1)
    return logits_BV.masked_fill(
        probabilities_BV < p * probabilities_BV.amax(-1, keepdim=True), -math.inf
    )


def penalise(scores_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Penalise repeated tokens: divide positive scores, multiply negative ones.

    Source: CTRL, Keskar et al., arXiv 1909.05858.
    """
    # Both branches lower the score.
    lowered_BV = torch.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return torch.where(seen_BV, lowered_BV, scores_BV)


def seen(ids_BS: Tensor, mask_BS: Tensor, vocab_size: int) -> Tensor:
    """Return True for the tokens present in each row, [B, V].

    The prompt counts, padding does not.
    """
    seen_BV = torch.zeros(ids_BS.shape[0], vocab_size + 1, dtype=torch.bool, device=ids_BS.device)
    # Padding goes to an extra column, which is cut off.
    seen_BV.scatter_(1, torch.where(mask_BS != 0, ids_BS, vocab_size), True)
    return seen_BV[:, :-1]


def _check_range(name: str, value: float, holds: bool, limit: str, note: str = "") -> None:
    if not holds:
        raise DecodingError(
            f"{name}: {value:g} is not {limit}{note}",
            field=name,
            reason="OUT_OF_RANGE",
            limit=limit,
        )
