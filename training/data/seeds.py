"""Random seeds, held-out decisions and row order as functions of names, seed and step.

A resumed run therefore needs no saved random state. torch is imported in a function, because light
commands import this module.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from training.errors import ConfigError

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
    keyed: Sequence[tuple[str, Row]],
    fraction: float,
    seed: int,
    kinds: Mapping[str, Callable[[Row], bool]],
) -> tuple[list[Row], list[Row]]:
    """Split rows into training rows and held-out rows by a fixed share of the distinct keys.

    Keys (prompts, whose rows stay together) are ordered by hash, and the first share is held out.
    If a side then lacks a kind of rows, keys move: the first key with all kinds, or else the first
    key of each kind, to the front, and the next such to the end. The front is held out, the end is
    not. The order of the rows has no influence.

    Args:
        kinds: tests of a row by the name of the kind, at most two; both sides need each kind.

    Raises:
        ConfigError: a kind has fewer than two keys, so no split is possible; names the counts.
    """
    found: dict[str, set[str]] = {key: set() for key, _ in keyed}
    for key, row in keyed:
        found[key].update(kind for kind, is_kind in kinds.items() if is_kind(row))
    counts = {kind: sum(kind in has for has in found.values()) for kind in kinds}
    if min(counts.values(), default=2) < 2:
        shown = " and ".join(f"{count:,} with {kind}" for kind, count in counts.items())
        raise ConfigError(
            f"data_path: {len(found):,} prompts fit, {shown}; at least 2 of each kind are needed, "
            "one to train on and one to hold out",
            field="data_path",
            reason="EMPTY",
            limit="at least 2",
        )
    order = sorted(found, key=lambda key: seed_of(seed, "held out", key))
    count = round(len(order) * fraction)
    if any(
        all(kind not in found[key] for key in side)
        for kind in kinds
        for side in (order[:count], order[count:])
    ):
        front = _first_of_all_kinds(order, found, kinds)
        back = _first_of_all_kinds([key for key in order if key not in front], found, kinds)
        order = [*front, *(key for key in order if key not in front | back), *back]
        count = min(max(count, len(front)), len(order) - len(back))
    held = set(order[:count])
    return [row for key, row in keyed if key not in held], [
        row for key, row in keyed if key in held
    ]


def _first_of_all_kinds(
    order: Sequence[str], found: Mapping[str, set[str]], kinds: Iterable[str]
) -> set[str]:
    """Return the first key that has all kinds, or else the first key of each kind."""
    whole = (key for key in order if found[key].issuperset(kinds))
    if (first := next(whole, None)) is not None:
        return {first}
    return {next(key for key in order if kind in found[key]) for kind in kinds}
