"""Runs of a simulation by seed.

A sound world has no problem and meets every fault. A mutant violates the invariant of its planted
defect.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path

from services.feedback.spool.log import LogError
from tests.services.feedback.world import World

STEPS = 60


def run(kind: type[World], seed: int, root: Path) -> tuple[list[str], Counter[str]]:
    """Return the violated invariants at the end, and the number of each fault."""
    world = kind(seed, root / f"{kind.__name__}-{seed}")
    try:
        world.run(STEPS)
        found = world.problems()
    except LogError as error:
        found = [f"stopped: {error}"]
    finally:
        world.close()
    return found, world.faults.counts


def check_sound(kind: type[World], seeds: int, faults: Collection[str], root: Path) -> None:
    totals: Counter[str] = Counter()
    for seed in range(seeds):
        found, counts = run(kind, seed, root)
        assert found == [], f"seed {seed}"
        totals += counts
    assert {name for name in faults if not totals[name]} == set(), "a fault never happened"


def is_caught(kind: type[World], letter: str, seeds: int, root: Path) -> bool:
    """Return True if any seed violates the invariant with this letter."""
    found = (run(kind, seed, root)[0] for seed in range(seeds))
    return any(problem.startswith(f"{letter}:") for problems in found for problem in problems)
