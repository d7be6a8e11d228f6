"""Comparison of runs over a different number of processes."""

from pathlib import Path

import pytest

from training.progress_log import read_progress

# Ray raises its own niceness by 15; next to other tests it would not even start.
POLITE_TO_NOBODY = {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}


def assert_alike(straight: Path, other: Path) -> None:
    """Compare the metrics of all steps, up to the order of float sums."""
    one, two = read_progress(straight), read_progress(other)
    assert [step.step for step in one] == [step.step for step in two]
    for expected, found in zip(one, two, strict=True):
        assert expected.metrics.keys() == found.metrics.keys()
        assert found.metrics == pytest.approx(expected.metrics, rel=1e-4, abs=1e-5)
