"""Sampling by inversion: one uniform number per row and column, from the row's own seed.

Shapes: B rows (prompts x copies), R new columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.decoding.rows import Rows, StopRule, steps
from training.decoding.rules import Rules


@dataclass(frozen=True)
class Continuation:
    """The new tokens of a row, including the stop token.

    `ended` is False if the length limit was reached.
    """

    ids: tuple[int, ...]
    ended: bool


@dataclass(frozen=True)
class Sampler:
    """Token choice by rules and noise_BR, uniform in [0, 1), with a column per new token."""

    rules: Rules
    noise_BR: Tensor

    def __call__(self, rows: Rows, logits_BV: Tensor, column: int) -> Tensor:
        """Return the next token of each row, [B]."""
        ruled_BV = self.rules.apply(logits_BV, rows.ids_BS, rows.mask_BS)
        return choose(
            ruled_BV, self.noise_BR[:, column], temperature=0.0 if self.rules.greedy else 1.0
        )


@torch.no_grad()
def sample(
    rows: Rows, rules: Rules, ends: StopRule, max_new: int, seeds: Sequence[int]
) -> list[Continuation]:
    """Continue each row by sampling or greedily. `seeds` has one seed per prompt."""
    sampler = Sampler(
        rules, row_noise(seeds, len(rows) // len(seeds), max_new).to(rows.ids_BS.device)
    )
    grown = list(steps(rows, sampler, ends, max_new))
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
