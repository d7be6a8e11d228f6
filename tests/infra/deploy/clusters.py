"""Clusters for tests, each gone when its block ends. Where none can run a test fails, unless
CLUSTER=skip says so.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.cluster import lifecycle
from infra.cluster.installation import find_installed
from infra.cluster.layout import Layout
from infra.deploy.cluster_shell import ClusterShell
from tests.infra.deploy.deployed import Deployed


@contextmanager
def bare_cluster(state: Path, what: str) -> Iterator[ClusterShell]:
    """With nothing on it; `what` is not seen where it is skipped."""
    refuse_skipped(what)
    with ended(state):
        subprocess.run(
            [sys.executable, "-m", "infra.cluster", "up", "--state", str(state)],
            check=True,
            timeout=120,
        )
        yield ClusterShell(Layout(state), find_installed())


@contextmanager
def deployed_cluster(
    state: Path, what: str, *more_words: str, seconds: float = 600
) -> Iterator[Deployed]:
    """With the chart on it, as `make deploy` leaves it; `more_words` are for that."""
    refuse_skipped(what)
    with ended(state):
        deploy(state, *more_words, seconds=seconds)
        yield Deployed(ClusterShell(Layout(state), find_installed()))


def deploy(state: Path, *more_words: str, seconds: float) -> None:
    command = [
        sys.executable,
        "-m",
        "infra.deploy",
        "--state",
        str(state),
        "--port",
        "0",
        "--grpc-port",
        "0",
    ]
    subprocess.run([*command, *more_words], check=True, timeout=seconds)


def refuse_skipped(what: str) -> None:
    if os.environ.get("CLUSTER") == "skip":
        pytest.skip(f"CLUSTER=skip: {what}")


@contextmanager
def ended(state: Path) -> Iterator[None]:
    try:
        yield
    finally:
        lifecycle.down(Layout(state))
