"""Pieces of work on Ray's workers."""

import os

import pytest

from training.cluster.parts import Workers


@pytest.mark.long
def test_workers_of_ray_have_the_priority_of_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RAY_worker_niceness", raising=False)  # set for all other tests

    with Workers(2) as workers:
        found = [niceness for _, niceness in workers.each(os.nice, [0, 0])]

    assert found == [os.nice(0)] * 2
