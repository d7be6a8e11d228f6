"""Sampling: parameters with their presets per task, transformations of logits, and token choice.

Logits are transformed by pure functions [B, V] to [B, V]. Order and ties follow transformers:
penalty, temperature, top-k, top-p, min-p, each on the result of the previous one. Tokens are
sampled by inversion: one uniform number per row and column, from the row's own seed.

Shapes: B rows (prompts x copies), S tokens so far, R new columns, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.data.seeds import seed_of
from training.decoding.rows import DecodingError, Rows, StopRule, steps
from training.decoding.tasks import Task
from training.errors import details_of
from training.model.fields import ModelConfigError, read_object

MAX_TEMPERATURE = 2.0  # the same limit as in services/contracts/limits.py
GREEDY_BELOW = 0.01  # as the generator; smaller divisors are numerically useless
PRESETS_FILE = Path(__file__).resolve().parents[2] / "models" / "presets.json"


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


def read_presets(file: Path = PRESETS_FILE) -> dict[Task, Rules]:
    """Return the sampling rules of each task, read from models/presets.json like in the generator.

    Evaluation thus samples as serving does. Presets overridden by a deployment (the generator's
    setting `presets`) are not known here.

    Raises:
        DecodingError: the file is missing or not JSON; a task or a value is missing, unknown, not a
        number or out of range.
    """
    try:
        tasks = read_object(file)
    except ModelConfigError as error:
        raise DecodingError(str(error), **details_of(error)) from error
    _require(tasks, "", [*Task])
    presets: dict[Task, Rules] = {}
    for task in Task:
        values = tasks[task]
        if not isinstance(values, dict):
            raise DecodingError(
                f"{task}: is not an object", field=task, reason="WRONG_TYPE", limit="an object"
            )
        _require(values, f"{task}.", ["temperature", "top_p"])
        for name, value in values.items():
            if not isinstance(value, int | float) or isinstance(value, bool):
                field = f"{task}.{name}"
                raise DecodingError(
                    f"{field}: is not a number", field=field, reason="WRONG_TYPE", limit="a number"
                )
        try:
            presets[task] = Rules(**values)
        except DecodingError as error:
            raise DecodingError(f"{task}.{error}", **details_of(error, f"{task}.")) from error
    return presets


def _require(values: dict[str, Any], prefix: str, names: Sequence[str]) -> None:
    """Check that the fields are exactly `names`."""
    known = ", ".join(names)
    for name in sorted({*names} ^ {*values}):
        field, reason = f"{prefix}{name}", "UNKNOWN" if name in values else "MISSING"
        raise DecodingError(
            f"{field}: is {reason.lower()}; fields: {known}",
            field=field,
            reason=reason,
            limit=known,
        )


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
        ruled_BV = rules.apply(logits_BV, rows.ids_BS, rows.mask_BS)
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
