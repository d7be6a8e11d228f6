"""Counts of running generations by version; a version is unloaded only without any."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from services.generator.metrics import RUNNING


class RunningGenerations:
    """Number of running generations for each version."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    @contextmanager
    def track(self, version: str) -> Iterator[None]:
        """Count one generation of the version while the block runs."""
        self._add(version, 1)
        try:
            yield
        finally:
            self._add(version, -1)

    def count(self, version: str) -> int:
        """Return the number of running generations of a version."""
        return self._counts[version]

    def _add(self, version: str, step: int) -> None:
        self._counts[version] += step
        RUNNING.labels(version).set(self._counts[version])
