"""Random seeds and held-out decisions as functions of names. Imports no torch."""

from __future__ import annotations

import hashlib

SEED_VALUES = 1 << 63


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
