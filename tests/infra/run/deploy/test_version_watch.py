"""Watch after a promotion: a version made worse in use is rolled back without a run of the loop."""

import json
import shutil
import time
import urllib.error
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from infra.watching.boards.models import BOARD, ROLLOUT
from tests.infra.run.deploy import prometheus
from tests.infra.run.deploy.deployed import Deployed, until
from tests.infra.run.deploy.models import (
    NANO_VERSION,
    claim_folder,
    install_copy,
    make_endless,
    promote,
)
from tests.journeys.client import Client
from tests.journeys.prometheus import check_panels

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

PROMOTED, USERS, CLIENTS = "worse-1", 60, 8
# A larger share than the default of 5 %, so that few users decide.
WATCH = {"watch_share": 0.3, "watch_poll_seconds": 1}
TWO_GENERATORS = {"services": {"generator": {"replicas": 2, "settings": WATCH}}}


@pytest.fixture
def watching(deployed: Deployed) -> Iterator[Deployed]:
    """Release with two replicas of the generator and metrics for Prometheus."""
    with prometheus.monitored(deployed, TWO_GENERATORS):
        deployed.settle()
        try:
            yield deployed
        finally:
            promote(deployed, NANO_VERSION)
            folder = claim_folder(deployed, f"{deployed.name}-models") / PROMOTED
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.long
def test_version_made_worse_is_rolled_back_while_the_owner_of_the_watch_is_killed(
    watching: Deployed, record_property: Any
) -> None:
    users = [watching.person(key) for key in watching.keys("watched", count=USERS)]
    folder = install_copy(watching, PROMOTED)
    promote(watching, PROMOTED)
    assert ask_all(users) == {NANO_VERSION, PROMOTED}
    kill_owner(watching)
    asked = prometheus.started(watching)
    until("evidence is shown", lambda: bool(asked.query("thumbwheel_watch_e_value")))
    # A rate needs two values.
    lost = "increase(thumbwheel_traffic_counts_lost_total[1m])"
    until("there are two scrapes", lambda: bool(asked.query(lost)))
    shown = replace(BOARD, rows=(ROLLOUT,))
    check_panels(asked, shown, {}, release=(watching.namespace, watching.name))
    make_endless(folder)
    predictor = f"deployment/{watching.name}-predictor"
    watching.kubectl("rollout", "restart", predictor)
    watching.kubectl("rollout", "status", predictor, "--timeout=300s")
    degraded = time.monotonic()
    while (rollout := stored_rollout(watching))["stable"]["version"] == PROMOTED:
        assert time.monotonic() < degraded + 300, "the watch has not rolled the version back"
        ask_all(users)
    record_property("rolled_back_seconds", round(time.monotonic() - degraded))
    record_property("reason", rollout["history"][0]["reason"])
    assert rollout["stable"]["version"] == NANO_VERSION
    assert rollout["watch"] is None
    assert rollout["history"][0]["kind"] == "watch_rolled_back"
    until("all users have the version before", lambda: ask_all(users) == {NANO_VERSION})
    until("the alert fires", lambda: asked.alerts()["VersionRegressed"]["state"] == "firing")
    for pod in watching.pods("generator"):
        assert "watch without feedback" not in watching.kubectl("logs", pod)
    runs = ("pods,jobs,cronjobs", "--selector", "app.kubernetes.io/component=training")
    assert watching.objects(*runs) == [], "no run of the loop"


def kill_owner(deployed: Deployed) -> None:
    """Kill the comparing replica; return when another replica compares and all are ready."""

    def owner() -> str:
        return str(stored_rollout(deployed)["watch"]["owner"])

    until("a replica owns the watch", lambda: bool(owner()))
    killed = owner()
    pod = killed.rpartition("-")[0]
    deployed.kubectl("delete", "pod", pod, "--grace-period=0", "--force")
    until("another replica owns the watch", lambda: owner() != killed)
    generator = f"deployment/{deployed.name}-generator"
    deployed.kubectl("rollout", "status", generator, "--timeout=120s")


def stored_rollout(deployed: Deployed) -> dict[str, Any]:
    """Return the rollout by the command of operators."""
    found: dict[str, Any] = json.loads(
        deployed.python("generator", "-m", "services.generator", "rollout", "--json")
    )
    return found


def ask_all(users: Sequence[Client]) -> set[str]:
    """Return the answering versions; calls during the restart of the model server may fail."""

    def ask(user: Client) -> str:
        with suppress(urllib.error.URLError, AssertionError, OSError):
            return str(user.ask("hello")[0]["started"]["modelVersion"])
        return ""

    with ThreadPoolExecutor(CLIENTS) as pool:
        return {version for version in pool.map(ask, users) if version}
