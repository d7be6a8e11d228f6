"""F45, F49: operation with a tenth of a CPU, and with a failing control plane during an upgrade."""

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from infra.machine.cluster.errors import ClusterError
from tests.infra.run.deploy import page
from tests.infra.run.deploy.committed import committed
from tests.infra.run.deploy.deployed import SERVICES, TWO_REPLICAS, Deployed, annotated, until
from tests.infra.run.deploy.load import running_load
from tests.infra.run.deploy.retrying_users import (
    check_invariants,
    retrying_users,
    wait_for_progress,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]

STREAMS, CALLS_A_SECOND = 10, 5
# The chart's default. Components that watch the API, such as CoreDNS, reconnect after a failure
# with delays of many seconds; until then old pods must stay.
UNTIL_RECONNECTED: dict[str, Any] = {"rollout": {"minReadySeconds": 30}}
GO_ON = "go on after an upgrade that was cut off"


def test_upgrade_resumes_after_failure_of_the_control_plane(
    deployed: Deployed, tmp_path: Path, record_property: Any
) -> None:
    deployed.install(TWO_REPLICAS, UNTIL_RECONNECTED, annotated("before"))
    before = deployed.pods(*SERVICES, "predictor")
    with running_load(deployed, STREAMS, CALLS_A_SECOND) as people:
        error = interrupted_upgrade(
            deployed, lambda: kill_programs(deployed, "kube-apiserver", "etcd")
        )
        record_property("cut off", error)
        values = deployed.values(TWO_REPLICAS, UNTIL_RECONNECTED, annotated("after"))
        page.run(deployed, GO_ON, tmp_path, values)
        deployed.settle()
    observed = people.observed
    record_property("answers", observed["answers"])
    assert not before.items() & deployed.pods(*SERVICES, "predictor").items()
    assert status(deployed) == "deployed"
    assert (observed["failed"], observed["sent_again"]) == ([], [])
    assert (observed["late"], observed["lost"]) == ([], [])
    assert observed["answers"] > STREAMS
    deployed.install()


def interrupted_upgrade(deployed: Deployed, strike: Any) -> str:
    """Start an upgrade, strike while the upgrade is pending, and return its error."""
    errors = [""]

    def upgrade() -> None:
        try:
            deployed.install(TWO_REPLICAS, UNTIL_RECONNECTED, annotated("after"))
        except ClusterError as error:
            errors[0] = str(error)

    upgrading = threading.Thread(target=upgrade)
    upgrading.start()
    until("it is under way", lambda: status(deployed) == "pending-upgrade")
    strike()
    upgrading.join()
    return errors[0]


def status(deployed: Deployed) -> str:
    return str(
        json.loads(deployed.helm("status", deployed.name, "--output", "json"))["info"]["status"]
    )


def kill_programs(deployed: Deployed, *programs: str) -> None:
    """Kill control plane programs, which the supervisor restarts."""
    for program in programs:
        deployed.shell.run("pkill", "-KILL", "-f", program)
        until("the API answers again", lambda: answers(deployed))


def answers(deployed: Deployed) -> bool:
    with suppress(ClusterError):
        return deployed.shell.run("kubectl", "get", "--raw", "/readyz").strip() == "ok"
    return False


def test_services_with_a_tenth_of_a_cpu_lose_no_data(
    deployed: Deployed, record_property: Any
) -> None:
    before = committed(deployed)
    with retrying_users(deployed, 2) as people:
        deployed.install(
            {"serviceDefaults": {"resources": {"limits": {"cpu": "100m"}}}}, seconds=600
        )
        deployed.settle()
        wait_for_progress(people)
    record_property("fired", len(SERVICES))
    check_invariants(deployed, before, people, record_property)
    deployed.install()
