"""Uninstalled, only what policy keeps is left; installed again it is found, and what was said can
be read.
"""

import json
from typing import Any

import pytest

from tests.infra.deploy.deployed import STORES, Deployed, ask, until
from tests.journeys.client import text_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

# What Kubernetes puts into every namespace by itself.
OWN = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
# What comes and goes with the objects that it tells of.
TRACES = ("events", "events.events.k8s.io", "leases.coordination.k8s.io")


def kept(deployed: Deployed) -> set[str]:
    """As docs/kubernetes.md lists it."""
    name = deployed.name
    spools = {
        f"persistentvolumeclaim/spool-{name}-feedback-{number}"
        for number in range(spool_count(deployed))
    }
    volumes = {f"persistentvolumeclaim/data-{name}-{store}-0" for store in STORES}
    return {
        f"secret/{name}-keys",
        f"secret/{name}-evaluation",
        f"persistentvolumeclaim/{name}-models",
        *spools,
        *volumes,
    }


def spool_count(deployed: Deployed) -> int:
    claims = [claim["metadata"]["name"] for claim in deployed.objects("pvc")]
    return sum(name.startswith(f"spool-{deployed.name}-feedback-") for name in claims)


def everything(deployed: Deployed) -> set[str]:
    """Of every kind that there is in the cluster, what is in the namespace."""
    listing = ["kubectl", "api-resources", "--verbs=list", "--namespaced", "--output=name"]
    kinds = [kind for kind in deployed.shell.run(*listing).split() if kind not in TRACES]
    found = deployed.kubectl("get", ",".join(kinds), "--output=name", "--ignore-not-found").split()
    return {name for name in found if name not in OWN}


def test_what_stays_is_what_policy_keeps_and_is_found_again(
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
    expected = kept(deployed)
    assert len(expected) >= 8
    assert everything(deployed) == expected
    cluster_wide = "clusterroles,clusterrolebindings,priorityclasses,validatingwebhookconfigurations,mutatingwebhookconfigurations"
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
    record_property("kept", len(expected))
