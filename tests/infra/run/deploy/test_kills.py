"""F45, F49: pods are killed and exhaust their memory during chat; acknowledged data survive."""

import time
from typing import Any

import pytest

from tests.infra.run.deploy.committed import committed
from tests.infra.run.deploy.deployed import SERVICES, STORES, Deployed
from tests.infra.run.deploy.faults import exhaust, kill
from tests.infra.run.deploy.retrying_users import (
    check_invariants,
    retrying_users,
    wait_for_progress,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]

PEOPLE = 4


def test_killing_every_pod_loses_no_acknowledged_data(
    deployed: Deployed, record_property: Any
) -> None:
    before = committed(deployed)
    seconds = {}
    with retrying_users(deployed, PEOPLE) as people:
        for component in (*SERVICES, "predictor", *STORES):
            began = time.monotonic()
            kill(deployed, component)
            wait_for_progress(people)
            seconds[component] = round(time.monotonic() - began, 1)
    record_property("fired", len(seconds))
    record_property("seconds", str(seconds))
    check_invariants(deployed, before, people, record_property)


def test_memory_exhaustion_loses_no_acknowledged_data(
    deployed: Deployed, record_property: Any
) -> None:
    before = committed(deployed)
    with retrying_users(deployed, PEOPLE) as people:
        for component in SERVICES:
            exhaust(deployed, component)
            wait_for_progress(people)
    record_property("fired", len(SERVICES))
    check_invariants(deployed, before, people, record_property)
