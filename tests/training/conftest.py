"""One thread: tiny matrices gain nothing from a second one, and where cores are busy the two wait for each other."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also for stages that take every core (Machine.threads)."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
