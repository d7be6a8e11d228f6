"""Clusters for tests, removed at the end of their block.

If no cluster can run, a test fails, unless CLUSTER=skip is set.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from infra.machine.cluster import lifecycle
from infra.machine.cluster.installation import find_installed
from infra.machine.cluster.layout import Layout
from infra.run.deploy.cluster_shell import ClusterShell
from tests.infra.run.deploy.deployed import Deployed

# Marks of modules with releases of their own, and of modules with training runs. Each module names
# `long` itself, because a rule looks for that mark in the text of modules.
RELEASES = (
    pytest.mark.cluster,
    pytest.mark.releases,
    pytest.mark.slow,
    pytest.mark.timeout(900),
)
TRAINING_RUNS = (
    pytest.mark.cluster,
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
)


@contextmanager
def empty_cluster(state: Path, what: str) -> Iterator[ClusterShell]:
    """Start an empty cluster. `what` describes the untested part if the test is skipped."""
    skip_if_disabled(what)
    with removed_afterwards(state):
        subprocess.run(
            [sys.executable, "-m", "infra.machine.cluster", "up", "--state", str(state)],
            check=True,
            timeout=120,
        )
        yield ClusterShell(Layout(state), find_installed())


@contextmanager
def deployed_cluster(
    state: Path, what: str, *more_words: str, seconds: float = 600
) -> Iterator[Deployed]:
    """Start a cluster and run `make deploy` with `more_words` as extra arguments.

    $THUMBWHEEL_CLUSTER names the state folder of a permanent cluster for the development of a test.
    """
    skip_if_disabled(what)
    if stays := os.environ.get("THUMBWHEEL_CLUSTER"):
        deploy(Path(stays), *more_words, seconds=seconds)
        yield Deployed(ClusterShell(Layout(Path(stays)), find_installed()))
        return
    with removed_afterwards(state):
        deploy(state, *more_words, seconds=seconds)
        yield Deployed(ClusterShell(Layout(state), find_installed()))


def deploy(state: Path, *more_words: str, seconds: float) -> None:
    command = [
        sys.executable,
        "-m",
        "infra.run.deploy",
        "--state",
        str(state),
        "--port",
        "0",
        "--grpc-port",
        "0",
        "--without-quotas",
    ]
    subprocess.run([*command, *more_words], check=True, timeout=seconds)


def skip_if_disabled(what: str) -> None:
    if os.environ.get("CLUSTER") == "skip":
        pytest.skip(f"CLUSTER=skip: {what}")


@contextmanager
def removed_afterwards(state: Path) -> Iterator[None]:
    try:
        yield
    finally:
        lifecycle.down(Layout(state))
