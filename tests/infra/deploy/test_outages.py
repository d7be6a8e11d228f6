"""F45, F49: services with a tenth of a processor, and a control plane that dies in the middle of an
upgrade: people are served on.
"""

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from infra.cluster.errors import ClusterError
from tests.infra.deploy import page
from tests.infra.deploy.committed import committed
from tests.infra.deploy.deployed import SERVICES, Deployed, until
from tests.infra.deploy.people import chatting
from tests.infra.deploy.persons import insisting
from tests.infra.deploy.test_kills import check_invariants, go_on
from tests.infra.deploy.test_upgrade import TWO, noted

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]

STREAMS, CALLS_A_SECOND = 10, 5
GO_ON = "go on after an upgrade that was cut off"


def test_the_control_plane_dies_in_an_upgrade_which_goes_on_when_it_is_back(
    deployed: Deployed, tmp_path: Path, record_property: Any
) -> None:
    deployed.install(TWO, noted("before"))
    before = deployed.pods(*SERVICES, "predictor")
    with chatting(deployed, STREAMS, CALLS_A_SECOND) as people:
        said = cut_off(deployed, lambda: die(deployed, "kube-apiserver", "etcd"))
        record_property("cut off", said)
        page.run(deployed, GO_ON, tmp_path, deployed.values(TWO, noted("after")))
        deployed.settle()
    told = people.told
    record_property("answers", told["answers"])
    assert not before.items() & deployed.pods(*SERVICES, "predictor").items()
    assert status(deployed) == "deployed"
    assert (told["failed"], told["late"], told["lost"]) == ([], [], [])
    assert told["answers"] > STREAMS
    deployed.install()


def cut_off(deployed: Deployed, strike: Any) -> str:
    """An upgrade that is under way meanwhile, and what it said at its end."""
    said = [""]

    def upgrade() -> None:
        try:
            deployed.install(TWO, noted("after"))
        except ClusterError as error:
            said[0] = str(error)

    upgrading = threading.Thread(target=upgrade)
    upgrading.start()
    until("it is under way", lambda: status(deployed) == "pending-upgrade")
    strike()
    upgrading.join()
    return said[0]


def status(deployed: Deployed) -> str:
    return str(
        json.loads(deployed.helm("status", deployed.name, "--output", "json"))["info"]["status"]
    )


def die(deployed: Deployed, *programs: str) -> None:
    """Each without a word; whoever runs the cluster starts it again."""
    for program in programs:
        deployed.shell.run("pkill", "-KILL", "-f", program)
        until("the API answers again", lambda: answers(deployed))


def answers(deployed: Deployed) -> bool:
    with suppress(ClusterError):
        return deployed.shell.run("kubectl", "get", "--raw", "/readyz").strip() == "ok"
    return False


def test_services_with_a_tenth_of_a_processor_serve_on_and_lose_nothing(
    deployed: Deployed, record_property: Any
) -> None:
    before = committed(deployed)
    with insisting(deployed, 2) as people:
        deployed.install(
            {"serviceDefaults": {"resources": {"limits": {"cpu": "100m"}}}}, seconds=600
        )
        deployed.settle()
        go_on(people)
    record_property("fired", len(SERVICES))
    check_invariants(deployed, before, people, record_property)
    deployed.install()
