"""Chance as a function of names: every random number, and every share that is held out, comes from
what it is for. Imports no torch.
"""

from __future__ import annotations

import hashlib

SEED_VALUES = 1 << 63


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from its parts: (run seed, purpose, step) give independent streams."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def is_held_out(key: str, share: float, seed: int) -> bool:
    """Decided by the key alone: what stands twice is never on both sides, and a larger share holds
    all that a smaller one held.
    """
    return seed_of(seed, "held out", key) < share * SEED_VALUES
