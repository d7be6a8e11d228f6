"""The values file of a highly available release, on one node: a pod of every kind is lost in turn.

Reduced are what one node and one copy of each store cannot have: zones, replicas of Kafka, the
autoscalers, and the operators of certificates and monitoring. All pods have their three replicas.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml

from infra.machine.certificates.authority import certificate_names, issue_certificates
from infra.run.deploy import release
from tests.infra.run.deploy import load
from tests.infra.run.deploy.clusters import RELEASES
from tests.infra.run.deploy.deployed import SERVICES, SMALL, Deployed
from tests.infra.run.deploy.faults import lose
from tests.infra.run.deploy.models import NANO_VERSION, claim_folder, make_endless
from tests.infra.run.deploy.own_stores import own_stores
from tests.infra.run.deploy.tls_secrets import write_secrets

pytestmark = [*RELEASES, pytest.mark.long]

FILE = release.CHART / "ci" / "high-availability-values.yaml"
PRIORITY, STREAMS, CALLS_A_SECOND = "serving", 20, 10
KINDS = (*SERVICES, "predictor")
NO_SCALER = {"autoscaling": {"enabled": False}}
PEOPLE = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": load.NAMESPACE}}}
REDUCED = {
    "secrets": {"existing": ""},
    "tls": {"mode": "secrets"},
    "kafka": {"securityProtocol": "PLAINTEXT", "existingSecret": "", "caKey": ""},
    "models": {"existingClaim": "", "accessModes": ["ReadWriteMany"]},
    "spread": {"zones": {"whenUnsatisfiable": "ScheduleAnyway", "minDomains": 0}},
    "services": {
        "gateway": NO_SCALER,
        "guardrail": NO_SCALER,
        "feedback": {"spool": {"storageClass": ""}},
    },
    "networkPolicies": {"publicFrom": [PEOPLE], "metricsFrom": []},
    "monitoring": {part: {"enabled": False} for part in ("podMonitors", "rules", "dashboards")},
}


@pytest.fixture(scope="module")
def available(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Release with the file, and a model whose answers take seconds."""
    other = replace(deployed, name="thumbwheel-available", namespace="available")
    other.create_namespace()
    priority = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": PRIORITY},
        "value": 1000,
    }
    other.shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=json.dumps(priority))
    try:
        certificates = tmp_path_factory.mktemp("certificates")
        issue_certificates(certificates, certificate_names(), 1.0)
        write_secrets(other, certificates)
        stores = own_stores(other).values()
        other.install(SMALL, yaml.safe_load(FILE.read_text()), stores, REDUCED, seconds=600)
        make_endless(claim_folder(other, f"{other.name}-models") / NANO_VERSION)
        predictor = f"deployment/{other.name}-predictor"
        other.kubectl("rollout", "restart", predictor)
        other.kubectl("rollout", "status", predictor, "--timeout=300s")
        other.settle()
        yield other
    finally:
        other.remove()
        other.shell.run("kubectl", "delete", "priorityclass", PRIORITY)


def lose_every_kind(available: Deployed, record: Any, *words: str) -> dict[str, Any]:
    """Delete a pod of each kind under load; return what the load observed.

    Args:
        words: options of `kubectl delete`.
    """
    for kind in KINDS:
        assert len(available.pods(kind)) == 3, kind
    seconds = {}
    with load.running_load(available, STREAMS, CALLS_A_SECOND) as people:
        for kind in KINDS:
            began = time.monotonic()
            lose(available, kind, *words)
            seconds[kind] = round(time.monotonic() - began, 1)
        available.settle()
    found = people.observed
    record("seconds", json.dumps(seconds))
    for figure in ("answers", "calls", "waited", "least_running"):
        record(figure, found[figure])
    record("resumed", json.dumps(found["resumed"]))
    for figure in ("failed", "sent_again", "lost", "late"):
        record(figure, json.dumps(found[figure])[:2000])
    assert found["answers"] > STREAMS
    assert found["thumbs"]
    return found


def test_eviction_of_a_pod_of_every_kind_fails_no_call(
    available: Deployed, record_property: Any
) -> None:
    found = lose_every_kind(available, record_property)
    assert (found["failed"], found["sent_again"], found["lost"]) == ([], [], [])


def test_after_a_killed_pod_of_every_kind_only_its_own_answers_are_lost(
    available: Deployed, record_property: Any
) -> None:
    found = lose_every_kind(available, record_property, "--grace-period=0", "--force")
    assert found["failed"] == []
    # Calls without an answer in the killed gateway, and again until its turns count as lost.
    assert len(found["sent_again"]) <= 2 * STREAMS
    # A third of the streams in each of the killed gateway, generator and model server.
    assert len(found["lost"]) <= 2 * STREAMS
