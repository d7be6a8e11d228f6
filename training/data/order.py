"""Which rows a step sees: a function of the seed and the step, so that a resumed run needs no saved
generator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

import torch

from training.data.seeds import seed_of

Row = TypeVar("Row")


def rows_of_step(step: int, batch: int, size: int, seed: int) -> list[int]:
    """Row numbers of this step. Each epoch is its own permutation; a step may reach into the next
    epoch.
    """
    places = (divmod(place, size) for place in range(step * batch, (step + 1) * batch))
    return [
        int(_permutation(size, seed_of(seed, "order", epoch))[offset]) for epoch, offset in places
    ]


@lru_cache(maxsize=2)  # a corpus has millions of rows, and the next step asks for the same epoch
def _permutation(size: int, seed: int) -> torch.Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed), device="cpu")


def steps_for(epochs: int, batch: int, size: int) -> int:
    """Steps that see every row `epochs` times (the last one rounds up into another epoch)."""
    return -(-epochs * size // batch)


def split_by_key(
    keyed: Sequence[tuple[str, Row]], fraction: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to learn from, and those of a fixed share of the distinct keys."""
    held = held_out_keys((key for key, _ in keyed), fraction, seed)
    return [row for key, row in keyed if key not in held], [
        row for key, row in keyed if key in held
    ]


def held_out_keys(keys: Iterable[str], fraction: float, seed: int) -> set[str]:
    """A fixed share of the distinct keys. Split by what must not leak (the prompt), not by row."""
    distinct = sorted(set(keys), key=lambda key: seed_of(seed, "held out", key))
    return set(distinct[: round(len(distinct) * fraction)])
