"""Uninstall keeps objects by policy only; a new installation finds them."""

import json
from typing import Any

import pytest

from tests.infra.run.deploy.deployed import STORES, Deployed, ask, until
from tests.journeys.client import text_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

# Objects that Kubernetes creates in every namespace.
OWN = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
# Kinds that come and go with other objects.
TRACES = ("events", "events.events.k8s.io", "leases.coordination.k8s.io")


def preserved(deployed: Deployed) -> set[str]:
    """Return the preserved objects listed in docs/kubernetes.md."""
    name = deployed.name
    spools = {
        f"persistentvolumeclaim/spool-{name}-feedback-{number}"
        for number in range(spool_count(deployed))
    }
    volumes = {f"persistentvolumeclaim/data-{name}-{store}-0" for store in STORES}
    return {
        *(f"secret/{name}-{kept}" for kept in ("keys", "identity", "callers", "model-server")),
        f"secret/{name}-evaluation",
        f"persistentvolumeclaim/{name}-models",
        *spools,
        *volumes,
    }


def spool_count(deployed: Deployed) -> int:
    claims = [claim["metadata"]["name"] for claim in deployed.objects("pvc")]
    return sum(name.startswith(f"spool-{deployed.name}-feedback-") for name in claims)


def everything(deployed: Deployed) -> set[str]:
    """Return all objects in the namespace, of every kind in the cluster."""
    listing = ["kubectl", "api-resources", "--verbs=list", "--namespaced", "--output=name"]
    kinds = [kind for kind in deployed.shell.run(*listing).split() if kind not in TRACES]
    found = deployed.kubectl("get", ",".join(kinds), "--output=name", "--ignore-not-found").split()
    return {name for name in found if name not in OWN}


def test_uninstall_keeps_objects_by_policy_and_reinstall_finds_them(
    deployed: Deployed, record_property: Any
) -> None:
    ada = deployed.person(deployed.keys("ada")[0])
    events = ada.ask("Hello!")
    conversation = events[0]["started"]["conversationId"]
    before = ada.conversation(conversation)
    sealing = deployed.objects(
        "secrets", "--field-selector", f"metadata.name={deployed.name}-keys"
    )[0]["data"]
    deployed.helm("uninstall", deployed.name, "--wait", "--timeout", "180s")
    until("pods have ended", lambda: not deployed.objects("pods"))
    expected = preserved(deployed)
    assert len(expected) >= 8
    assert everything(deployed) == expected
    cluster_wide = (
        "clusterroles,clusterrolebindings,priorityclasses,"
        "validatingwebhookconfigurations,mutatingwebhookconfigurations"
    )
    left = json.loads(deployed.shell.run("kubectl", "get", cluster_wide, "-o", "json"))["items"]
    assert [
        one["metadata"]["name"] for one in left if "thumbwheel" in json.dumps(one["metadata"])
    ] == []
    deployed.install()
    deployed.reopen()
    assert (
        deployed.objects("secrets", "--field-selector", f"metadata.name={deployed.name}-keys")[0][
            "data"
        ]
        == sealing
    )
    ada = deployed.person(ada.key)
    assert ada.conversation(conversation) == before
    assert text_of(events) == before[-1]["text"]
    assert ask(deployed.person(), "Are you back?")[0]
    deployed.audit()
    record_property("preserved", len(expected))
