"""Single-threaded torch: two threads on tiny matrices wait for each other on a busy machine and
save no time.
"""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Limit torch to a single thread, including stages with the default of all cores
    (Machine.threads).
    """
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
