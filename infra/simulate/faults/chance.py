"""Seeded decision whether a fault is injected: always, the first few times, or for a share.

Equal seeds yield equal decisions.
"""

import random

from training.errors import ConfigError


class Chance:
    """Select a share of occasions, at most `times` of them. Not thread-safe."""

    def __init__(self, share: float = 1.0, times: int | None = None, seed: int = 0) -> None:
        if not 0.0 <= share <= 1.0:
            raise ConfigError(
                f"share: {share} is not between 0 and 1",
                field="share",
                reason="OUT_OF_RANGE",
                limit="0 to 1",
            )
        self._share, self._left, self._random = share, times, random.Random(seed)

    def strikes(self) -> bool:
        """Decide for the next occasion; call exactly once per occasion."""
        if self._left == 0 or self._random.random() >= self._share:
            return False
        if self._left is not None:
            self._left -= 1
        return True
