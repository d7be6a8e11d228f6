"""Shared cluster with the chart for all tests of a session, because its start is expensive.

Each test leaves the release intact. $THUMBWHEEL_CLUSTER names the state folder of a permanent
cluster for the development of a test; `make deploy STATE=…` creates the cluster.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.machine.certificates.authority import certificate_names, issue_certificates
from tests.infra.run.deploy.clusters import deployed_cluster
from tests.infra.run.deploy.deployed import Deployed
from tests.infra.run.deploy.loop_runs import LoopRuns
from tests.infra.run.deploy.tls_secrets import write_secrets

CERTIFICATE_DAYS = 1.0
UNSEEN, DEPLOY_SECONDS = "the chart is not tried on a real cluster", 600


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Release as installed by `make deploy`."""
    with deployed_cluster(
        tmp_path_factory.mktemp("deploy") / "cluster", UNSEEN, seconds=DEPLOY_SECONDS
    ) as found:
        yield found


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LoopRuns]:
    """Separate cluster with training for one module, which names RAY_MODE and UNTRIED."""
    state = tmp_path_factory.mktemp("runs") / "cluster"
    words = ("--training", request.module.RAY_MODE)
    with deployed_cluster(state, request.module.UNTRIED, *words, seconds=1800) as found:
        yield LoopRuns(found)


@pytest.fixture
def certificates(deployed: Deployed, tmp_path: Path) -> Iterator[Path]:
    """Return the folder with the certificates of a release with mutual TLS."""
    issue_certificates(tmp_path, certificate_names(), CERTIFICATE_DAYS)
    write_secrets(deployed, tmp_path)
    deployed.install({"tls": {"mode": "secrets"}})
    deployed.settle()
    yield tmp_path
    deployed.install()
    deployed.settle()
