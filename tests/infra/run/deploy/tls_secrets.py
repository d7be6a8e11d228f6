"""Secrets with the certificates of a release with mutual TLS."""

import base64
import json
from pathlib import Path

from infra.machine.certificates.authority import certificate_names
from tests.infra.run.deploy.deployed import Deployed


def write_secrets(deployed: Deployed, folder: Path) -> None:
    """Create or replace the secrets of all names, as docs/kubernetes.md describes."""
    secrets = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": f"{deployed.name}-{name}-tls"},
            "data": {
                key: base64.b64encode((folder / file).read_bytes()).decode()
                for key, file in (
                    ("tls.crt", f"{name}.pem"),
                    ("tls.key", f"{name}.key"),
                    ("ca.crt", "authority.pem"),
                )
            },
        }
        for name in certificate_names()
    ]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": secrets})
    deployed.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=listed)
