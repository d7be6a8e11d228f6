"""One cluster with the chart on it for all journeys of a session: making it is what costs. Each
leaves it whole.

$THUMBWHEEL_CLUSTER names the state folder of one that stays, for who works on a journey; `make
deploy STATE=…` makes it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.cluster.installation import find_installed
from infra.cluster.layout import Layout
from infra.deploy.cluster_shell import ClusterShell
from tests.infra.deploy.clusters import deploy, deployed_cluster, refuse_skipped
from tests.infra.deploy.deployed import Deployed

UNSEEN, DEPLOY_SECONDS = "the chart is not tried on a real cluster", 600


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """As `make deploy` leaves it."""
    if stays := os.environ.get("THUMBWHEEL_CLUSTER"):
        refuse_skipped(UNSEEN)
        deploy(Path(stays), seconds=DEPLOY_SECONDS)
        yield Deployed(ClusterShell(Layout(Path(stays)), find_installed()))
        return
    with deployed_cluster(
        tmp_path_factory.mktemp("deploy") / "cluster", UNSEEN, seconds=DEPLOY_SECONDS
    ) as found:
        yield found
