"""F45, F49: pods are killed and exhaust their memory during chat; acknowledged data survive."""

import time
from typing import Any

import pytest

from tests.infra.run.deploy.committed import committed
from tests.infra.run.deploy.deployed import SERVICES, STORES, Deployed, until
from tests.infra.run.deploy.retrying_users import (
    check_invariants,
    retrying_users,
    wait_for_progress,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]

PEOPLE = 4
READY_SECONDS = 180
# Many small processes, so that the service is the largest process of its container when memory is
# exhausted.
MEMORY_HOG = """
import os, time
for number in range(60):
    if os.fork() == 0:
        held = b"x" * 20_000_000
        time.sleep(60)
        os._exit(0)
    time.sleep(0.02)
time.sleep(60)
"""


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


def kill(deployed: Deployed, component: str) -> None:
    """Kill a pod of the component and wait for a ready replacement."""
    pods = deployed.pods(component)
    victim = sorted(pods)[0]
    deployed.kubectl("delete", "pod", victim, "--grace-period=0", "--force")

    def replaced() -> bool:
        there = deployed.pods(component)
        return len(there) == len(pods) and pods[victim] not in there.values()

    until(f"{component} has another pod", replaced)
    ready(deployed, component)


def ready(deployed: Deployed, component: str) -> None:
    chosen = f"app.kubernetes.io/instance={deployed.name},app.kubernetes.io/component={component}"
    deployed.kubectl(
        "wait", "pod", "--selector", chosen, "--for=condition=Ready", f"--timeout={READY_SECONDS}s"
    )


def exhaust(deployed: Deployed, component: str) -> None:
    """Exhaust the memory of a container and wait for its restart by kubelet."""
    pod = sorted(deployed.pods(component))[0]
    deployed.shell.run(
        "sh",
        "-c",
        f"kubectl exec -n {deployed.namespace} {pod} -- python3 -c '{MEMORY_HOG}' || true",
    )

    def was_killed() -> bool:
        status = deployed.objects("pods", "--field-selector", f"metadata.name={pod}")[0]["status"]
        last = status["containerStatuses"][0]["lastState"].get("terminated", {})
        return last.get("reason") == "OOMKilled"

    until(f"{component} was killed for its memory", was_killed)
    ready(deployed, component)
