"""Fixture with real workers."""

from collections.abc import Iterator

import pytest

from training.verification.workers import WorkerLimits, Workers


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    with Workers(1, WorkerLimits(processor_seconds=2, wall_seconds=120.0)) as started:
        yield started
