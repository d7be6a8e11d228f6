"""Single-threaded torch, and the real sandbox.

Two threads on tiny matrices wait for each other on a busy machine and save no time. On machines
without a sandbox its tests fail with the reason; none is skipped.
"""

import os
from collections.abc import Iterator

import pytest
import torch

from infra.machine.servers import installation
from tests.training import fake_accelerator
from tests.training.closeness import Closeness
from training.runtime.context import Machine
from training.runtime.machine import use_device
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
    use_device("cpu")  # a stage leaves its device as torch's default


@pytest.fixture(scope="session")
def machine(pytestconfig: pytest.Config) -> Machine:
    """Return the device and number type of the stages under test (options --device, --dtype)."""
    device, dtype = (str(pytestconfig.getoption(name)) for name in ("device", "dtype"))
    if device == fake_accelerator.NAME:
        fake_accelerator.install()
    return Machine(threads=1, device=device, dtype=dtype)


@pytest.fixture(scope="session")
def closeness(machine: Machine) -> Closeness:
    """Return the comparison of repeated runs on the machine of the stages under test."""
    return Closeness(machine)


@pytest.fixture(scope="session")
def bubblewrap() -> dict[str, str]:
    """Return the environment with the path of the installed program."""
    return {PROGRAM_VARIABLE: str(installation.locate().bubblewrap)}


@pytest.fixture(scope="session")
def sandbox(bubblewrap: dict[str, str]) -> Sandbox:
    """Return a sandbox with two processor seconds and a generous wall time for busy machines."""
    return open_sandbox(bubblewrap, Limits(wall_seconds=60.0, processor_seconds=2))
