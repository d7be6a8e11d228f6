"""Random seeds, held-out decisions and row order as functions of names, seed and step.

A resumed run therefore needs no saved random state. torch is imported in a function, because light
commands import this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

SEED_VALUES = 1 << 63
Row = TypeVar("Row")


def seed_of(*parts: int | str) -> int:
    """Return a 63-bit seed; parts such as (run seed, purpose, step) give independent streams."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    # 63 bits fit the seed range of every generator.
    return int.from_bytes(digest[:8], "big") >> 1


def is_held_out(key: str, share: float, seed: int) -> bool:
    """Decide by the key alone, so duplicates never fall on both sides.

    A larger share contains every key of a smaller share.
    """
    return seed_of(seed, "held out", key) < share * SEED_VALUES


def rows_of_step(step: int, batch: int, size: int, seed: int) -> list[int]:
    """Return the row numbers of this step.

    Each epoch has its own permutation; a step may reach into the next epoch.
    """
    # (epoch, offset within the epoch) of every row of the step.
    places = (divmod(place, size) for place in range(step * batch, (step + 1) * batch))
    return [
        int(_permutation(size, seed_of(seed, "order", epoch))[offset]) for epoch, offset in places
    ]


@lru_cache(maxsize=2)  # Corpora have millions of rows, and consecutive steps share an epoch.
def _permutation(size: int, seed: int) -> Tensor:
    import torch

    return torch.randperm(size, generator=torch.Generator().manual_seed(seed), device="cpu")


def steps_for(epochs: int, batch: int, size: int) -> int:
    """Return the number of steps for `epochs` passes, rounded up."""
    return -(-epochs * size // batch)


def split_by_key(
    keyed: Sequence[tuple[str, Row]], fraction: float, seed: int
) -> tuple[list[Row], list[Row]]:
    """Split rows into training rows and held-out rows by a fixed share of the distinct keys."""
    held = held_out_keys((key for key, _ in keyed), fraction, seed)
    return [row for key, row in keyed if key not in held], [
        row for key, row in keyed if key in held
    ]


def held_out_keys(keys: Iterable[str], fraction: float, seed: int) -> set[str]:
    """Return a fixed share of the distinct keys.

    Split by the attribute that must not leak (the prompt), not by row.
    """
    distinct = sorted(set(keys), key=lambda key: seed_of(seed, "held out", key))
    return set(distinct[: round(len(distinct) * fraction)])
