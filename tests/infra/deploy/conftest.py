"""One cluster with the chart on it for all journeys of a session: making it is what costs. Each leaves it whole.

$THUMBWHEEL_CLUSTER names the state folder of one that stays, for who works on a journey; `make deploy STATE=…` makes it.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cluster import lifecycle
from infra.cluster.installation import find_installed
from infra.cluster.layout import Layout
from infra.deploy.inside import Inside
from tests.infra.deploy.deployed import Deployed


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """As `make deploy` leaves it."""
    if os.environ.get("CLUSTER") == "skip":
        pytest.skip("CLUSTER=skip: the chart is not tried on a real cluster")
    stays = os.environ.get("THUMBWHEEL_CLUSTER")
    layout = Layout(Path(stays) if stays else tmp_path_factory.mktemp("deploy") / "cluster")
    command = [sys.executable, "-m", "infra.deploy", "--state", str(layout.state), "--port", "0", "--grpc-port", "0"]
    try:
        subprocess.run(command, check=True, timeout=600)
        yield Deployed(Inside(layout, find_installed()))
    finally:
        if not stays:
            lifecycle.down(layout)
