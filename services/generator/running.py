"""How many generations of a version run: a version is unloaded only when none does."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.generator.metrics import RUNNING


class Running:
    """Counts by version."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def one(self, version: str) -> Iterator[None]:
        """One more, for as long as the block runs."""
        self._add(version, 1)
        try:
            yield
        finally:
            self._add(version, -1)

    def count(self, version: str) -> int:
        """How many run now."""
        return self._counts[version]

    def _add(self, version: str, step: int) -> None:
        self._counts[version] += step
        RUNNING.labels(version).set(self._counts[version])
