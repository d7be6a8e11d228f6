"""Single-threaded torch, and the real sandbox.

Two threads on tiny matrices wait for each other on a busy machine and save no time. On machines
without a sandbox its tests fail with the reason; none is skipped.
"""

import os
from collections.abc import Iterator

import pytest
import torch

from infra.machine.servers import installation
from training.verification.sandbox.bubblewrap import PROGRAM_VARIABLE
from training.verification.sandbox.runs import Limits, Sandbox, open_sandbox


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


@pytest.fixture(scope="session")
def bubblewrap() -> dict[str, str]:
    """Return the environment with the path of the installed program."""
    return {PROGRAM_VARIABLE: str(installation.locate().bubblewrap)}


@pytest.fixture(scope="session")
def sandbox(bubblewrap: dict[str, str]) -> Sandbox:
    """Return a sandbox with two processor seconds and a generous wall time for busy machines."""
    return open_sandbox(bubblewrap, Limits(wall_seconds=60.0, processor_seconds=2))
