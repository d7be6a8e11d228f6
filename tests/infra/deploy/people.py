"""A crowd in a pod of the cluster, outside the release: it comes in by the door's name, as any application in there does."""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.cluster import lifecycle
from infra.deploy.storage import RESTRICTED
from tests.infra.deploy.deployed import Deployed

NAMESPACE = POD = "people"
SCRIPT = Path(__file__).with_name("crowd.py")
BEGIN_SECONDS, END_SECONDS = 90, 180


@dataclass
class People:
    """Those of one block; `told` once it has ended."""

    began: threading.Event = field(default_factory=threading.Event)
    told: dict[str, Any] = field(default_factory=dict)


def prepare(deployed: Deployed) -> None:
    """The namespace and the pod, if they are not there."""
    free = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": POD,
        "image": deployed.image("services"),
        "command": ["python3", "-c", "import time; time.sleep(36_000)"],
        "securityContext": free,
        # Whoever has no share of a busy machine looks like a peer that has died.
        "resources": {"requests": {"cpu": "300m", "memory": "128Mi"}},
        "env": [{"name": "GRPC_VERBOSITY", "value": "NONE"}],
        "volumeMounts": [{"name": "crowd", "mountPath": "/crowd"}],
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 10_001, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "crowd", "configMap": {"name": "crowd"}}],
    }
    objects = [
        {"kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}},
        {
            "kind": "ConfigMap",
            "metadata": {"name": "crowd", "namespace": NAMESPACE},
            "data": {SCRIPT.name: SCRIPT.read_text()},
        },
        {"kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE}, "spec": spec},
    ]
    listed = {"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "v1", **each} for each in objects]}
    deployed.inside.run("kubectl", "apply", "--server-side", "-f", "-", said=json.dumps(listed))
    deployed.inside.run("kubectl", "wait", "-n", NAMESPACE, f"pod/{POD}", "--for=condition=Ready", "--timeout=60s")


@contextmanager
def chatting(deployed: Deployed, streams: int, calls_a_second: float) -> Iterator[People]:
    """All of them stream when the block begins; when it ends, what they do is read to its end."""
    prepare(deployed)
    keys, people = deployed.keys("crowd", count=10), People()
    door = f"{deployed.name}-door.{deployed.namespace}"
    words = ["kubectl", "exec", "--stdin", "-n", NAMESPACE, POD, "--", "python3", f"/crowd/{SCRIPT.name}", door]
    crowd = subprocess.Popen(
        deployed.inside.command([*words, str(streams), str(calls_a_second)]),
        env=lifecycle.user_environment(deployed.inside.layout, deployed.inside.tools),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert crowd.stdin and crowd.stdout and crowd.stderr
    errors: list[str] = []
    reading = threading.Thread(target=_note, args=(crowd.stderr, errors, people.began))
    reading.start()
    try:
        crowd.stdin.write(json.dumps(keys) + "\n")
        crowd.stdin.flush()
        assert people.began.wait(BEGIN_SECONDS), errors[-20:]
        yield people
        crowd.stdin.close()
        said = crowd.stdout.read()
        assert crowd.wait(END_SECONDS) == 0, errors[-20:]
        people.told.update(json.loads(said))
    finally:
        if crowd.poll() is None:  # what enters the namespaces passes no signal on
            deployed.inside.run("kubectl", "delete", "pod", "-n", NAMESPACE, POD, "--grace-period=0", "--force")
        crowd.wait()
        reading.join()
        for pipe in (crowd.stdin, crowd.stdout, crowd.stderr):
            pipe.close()


def _note(lines: Any, kept: list[str], began: threading.Event) -> None:
    for line in lines:
        kept.append(line.rstrip())
        if line.startswith("all stream"):
            began.set()
