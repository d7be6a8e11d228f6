"""Mutual TLS between the services of a release, and strangers at its inner ports (finding S-11)."""

import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from infra.machine.certificates.authority import (
    Authority,
    CertificatePair,
    certificate_names,
    write_pair,
)
from infra.machine.cluster.errors import ClusterError
from infra.run.deploy import release
from infra.service_table import service_table
from tests.infra.run.deploy.deployed import Deployed, until
from tests.infra.run.deploy.load import running_load
from tests.infra.run.deploy.tls_secrets import write_secrets
from tests.support.errors import refused

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]

STREAMS, CALLS_A_SECOND, LIFETIME_DAYS = 20, 5, 1.0
# The kubelet writes changed secrets within a minute or two.
WRITTEN_SECONDS = 240
SHOW_CERTIFICATE = """
import ssl, sys
print(ssl.get_server_certificate((sys.argv[1], int(sys.argv[2])), timeout=5))
"""


def shown(deployed: Deployed, service: str, port: int) -> bytes:
    """Return the certificate of a server on a new connection."""
    host = f"{deployed.name}-{service}"
    return ssl.PEM_cert_to_DER_cert(
        deployed.python("gateway", "-c", SHOW_CERTIFICATE, host, str(port)).strip()
    )


@pytest.mark.long
def test_replaced_certificates_are_used_without_a_failed_call(
    deployed: Deployed, certificates: Path, record_property: Any
) -> None:
    release.test(deployed.shell)
    authority = Authority(
        CertificatePair(
            (certificates / "authority.pem").read_bytes(),
            (certificates / "authority.key").read_bytes(),
        )
    )
    pods = deployed.pods("gateway", *(service.name for service in service_table().internal))
    with running_load(deployed, STREAMS, CALLS_A_SECOND) as load:
        for name in certificate_names():
            write_pair(certificates, name, authority.issue(name, LIFETIME_DAYS))
        write_secrets(deployed, certificates)
        for service in service_table().internal:
            issued = ssl.PEM_cert_to_DER_cert((certificates / f"{service.name}.pem").read_text())
            until(
                f"{service.name} shows its new certificate",
                lambda service=service, issued=issued: (  # type: ignore[misc]
                    shown(deployed, service.name, service.port) == issued
                ),
                WRITTEN_SECONDS,
            )
    observed = load.observed
    for figure in ("answers", "calls", "seconds", "least_running"):
        record_property(figure, round(observed[figure]))
    assert (observed["failed"], observed["sent_again"]) == ([], [])
    assert observed["lost"] == []
    assert observed["least_running"] == STREAMS
    assert observed["answers"] > STREAMS
    assert deployed.pods("gateway", *(each.name for each in service_table().internal)) == pods


@pytest.mark.long
def test_helm_test_fails_while_a_policy_admits_strangers(deployed: Deployed) -> None:
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "admit-all"},
        "spec": {
            "podSelector": {"matchLabels": {"app.kubernetes.io/component": "session"}},
            "ingress": [{}],
        },
    }
    deployed.kubectl("apply", "-f", "-", stdin=json.dumps(policy))
    try:
        with refused(ClusterError, field="helm", reason="FAILED"):
            release.test(deployed.shell)
        log = deployed.kubectl("logs", f"job/{deployed.name}-test-stranger")
        assert [line.split()[1] for line in log.splitlines() if line.startswith("FAILED")] == [
            "session:"
        ]
    finally:
        deployed.kubectl("delete", "networkpolicy", "admit-all")
    release.test(deployed.shell)
