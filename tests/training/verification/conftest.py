"""Fixtures with the real sandbox and real workers.

On machines without a sandbox the tests fail with the reason; none is skipped.
"""

from collections.abc import Iterator

import pytest

from infra.machine.servers import installation
from training.verification.sandbox.bubblewrap import PROGRAM_VARIABLE
from training.verification.sandbox.runs import Limits, Sandbox, open_sandbox
from training.verification.workers import WorkerLimits, Workers


@pytest.fixture(scope="session")
def bubblewrap() -> dict[str, str]:
    """Return the environment with the path of the installed program."""
    return {PROGRAM_VARIABLE: str(installation.locate().bubblewrap)}


@pytest.fixture(scope="session")
def sandbox(bubblewrap: dict[str, str]) -> Sandbox:
    """Return a sandbox with two processor seconds and a generous wall time for busy machines."""
    return open_sandbox(bubblewrap, Limits(wall_seconds=60.0, processor_seconds=2))


@pytest.fixture(scope="session")
def workers() -> Iterator[Workers]:
    with Workers(1, WorkerLimits(processor_seconds=2, wall_seconds=120.0)) as started:
        yield started
