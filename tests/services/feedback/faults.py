"""Random faults by seed for the simulations."""

import random
from collections import Counter


class CrashError(BaseException):
    """Simulated kill -9; a BaseException, so that no `except Exception` catches it."""


class Faults:
    """Source of random faults that counts each fault, so that unused faults are noticed."""

    def __init__(self, seed: int) -> None:
        self.random, self.counts, self.on = random.Random(seed), Counter[str](), True

    def strike(self, name: str, probability: float) -> bool:
        hit = self.on and self.random.random() < probability
        if hit:
            self.counts[name] += 1
        return hit
