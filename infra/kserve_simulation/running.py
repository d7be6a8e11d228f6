"""KServe for a cluster of this machine: its resources put in, its controller started and ended, from out here."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from infra.cluster import lifecycle
from infra.deploy.inside import Inside
from infra.kserve_simulation.resources import definitions


def install_resources(inside: Inside) -> None:
    """And wait until the API knows them. Raises: ClusterError."""
    said = json.dumps({"apiVersion": "v1", "kind": "List", "items": definitions()})
    inside.run("kubectl", "apply", "--server-side", "-f", "-", said=said)
    names = [f"crd/{each['metadata']['name']}" for each in definitions()]
    inside.run("kubectl", "wait", "--for=condition=Established", "--timeout=60s", *names)


@contextmanager
def controller(inside: Inside) -> Iterator[None]:
    """It runs as long as the block. Raises: ClusterError: no cluster runs."""
    command = [sys.executable, "-m", "infra.kserve_simulation", "--state", str(inside.layout.state)]
    with (inside.layout.logs / "kserve-simulation.log").open("ab") as log:
        process = subprocess.Popen(
            inside.command(command),
            env=lifecycle.user_environment(inside.layout, inside.tools),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)
