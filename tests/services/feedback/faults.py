"""Faults by seed, for the simulations."""

import random
from collections import Counter


class CrashError(BaseException):
    """kill -9. Not an Exception: nothing may catch it."""


class Faults:
    """Decides by seed, and counts, so that a scenario without its fault is seen."""

    def __init__(self, seed: int) -> None:
        self.random, self.counts, self.on = random.Random(seed), Counter[str](), True

    def strike(self, name: str, probability: float) -> bool:
        hit = self.on and self.random.random() < probability
        if hit:
            self.counts[name] += 1
        return hit
