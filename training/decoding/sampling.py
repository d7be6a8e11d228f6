"""Sampling: transformations of logits by the rules of config.py, and token choice.

Logits are transformed by pure functions [B, V] to [B, V]. Order and ties follow transformers:
penalty, temperature, top-k, top-p, min-p, each on the result of the previous one. Tokens are
sampled by inversion: one uniform number per row and column, from the row's own seed.

Shapes: B rows (prompts x copies), S tokens so far, R new columns, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.decoding.config import Rules
from training.decoding.rows import Rows, StopRule, steps


def apply_rules(rules: Rules, logits_BV: Tensor, ids_BS: Tensor, mask_BS: Tensor) -> Tensor:
    """Return the transformed logits, for sampling or (greedy) for argmax."""
    if rules.repetition_penalty != 1:
        logits_BV = penalise(
            logits_BV, seen(ids_BS, mask_BS, logits_BV.shape[-1]), rules.repetition_penalty
        )
    if rules.greedy:
        return logits_BV
    logits_BV = logits_BV / rules.temperature
    if rules.top_k:
        logits_BV = keep_top_k(logits_BV, rules.top_k)
    if rules.top_p < 1:
        logits_BV = keep_top_p(logits_BV, rules.top_p)
    if rules.min_p:
        logits_BV = keep_min_p(logits_BV, rules.min_p)
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


@dataclass(frozen=True)
class Continuation:
    """The new tokens of a row, including the stop token.

    `ended` is False if the length limit was reached.
    """

    ids: tuple[int, ...]
    ended: bool


@torch.no_grad()
def sample(
    rows: Rows, rules: Rules, ends: StopRule, max_new: int, seeds: Sequence[int]
) -> list[Continuation]:
    """Continue each row by sampling or greedily. `seeds` has one seed per prompt."""
    noise_BR = row_noise(seeds, len(rows) // len(seeds), max_new).to(rows.ids_BS.device)

    def next_token(rows: Rows, logits_BV: Tensor, column: int) -> Tensor:
        ruled_BV = apply_rules(rules, logits_BV, rows.ids_BS, rows.mask_BS)
        return choose(ruled_BV, noise_BR[:, column], temperature=0.0 if rules.greedy else 1.0)

    grown = list(steps(rows, next_token, ends, max_new))
    lengths = torch.stack([step.real_B for step in grown]).sum(0).tolist()
    ended = (~grown[-1].running_B).tolist()
    ids = rows.ids_BS[:, rows.prompt_columns :].tolist()
    return [
        Continuation(tuple(row[:length]), end)
        for row, length, end in zip(ids, lengths, ended, strict=True)
    ]


def choose(logits_BV: Tensor, noise_B: Tensor, temperature: float) -> Tensor:
    """Return a token per row by inversion of the cumulative distribution at noise_B in [0, 1).

    Computed in fp64, because up to 262k terms are summed.
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    cumulative_BV = (logits_BV.double() / temperature).softmax(-1).cumsum(-1)
    # Scale by the total, which may differ from 1 by rounding.
    wanted_B1 = noise_B[:, None].double() * cumulative_BV[:, -1:]
    token_B1 = torch.searchsorted(cumulative_BV, wanted_B1, right=True)
    return token_B1.squeeze(-1).clamp(max=logits_BV.shape[-1] - 1)


def row_noise(seeds: Sequence[int], copies: int, columns: int) -> Tensor:
    """Return uniform numbers for every row, [B, columns], in fp64 on the CPU.

    The CPU generator gives the same numbers on every machine. Each row has its own seed, derived
    from the prompt's seed and the copy number.
    """
    generators = (
        torch.Generator().manual_seed(seed_of(seed, copy))
        for seed in seeds
        for copy in range(copies)
    )
    rows = [
        torch.rand(columns, generator=generator, dtype=torch.float64, device="cpu")
        for generator in generators
    ]
    return torch.stack(rows)
