"""Load generator in a pod outside the release, which uses the name of the Service."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.run.deploy.storage import RESTRICTED
from tests.infra.run.deploy.deployed import Deployed, until
from tests.infra.run.deploy.restricted_pods import restricted_spec

NAMESPACE = POD = "people"
FOLDER = "/people"
SCRIPT = Path(__file__).with_name("load_generator.py")
BEGIN_SECONDS, END_SECONDS = 90, 180


# Scripts in the pod: start in the background, read a file if present, request the end.
START = """
import os, subprocess, sys
folder, script, *words = sys.argv[1:]
os.makedirs(folder)
open(folder + "/keys.json", "w").write(sys.stdin.read())
subprocess.Popen([sys.executable, script, folder, *words], start_new_session=True,
                 stdin=subprocess.DEVNULL, stdout=open(folder + "/log", "w"),
                 stderr=subprocess.STDOUT)
"""
READ = """
import pathlib, sys
file = pathlib.Path(sys.argv[1])
print('!' + file.read_text() if file.exists() else '', end='')
"""
TOUCH = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"


@dataclass
class Load:
    """Load during a block; `observed` is available afterwards."""

    observed: dict[str, Any] = field(default_factory=dict)


def prepare(deployed: Deployed) -> None:
    """Create the namespace and the pod if missing."""
    container = {
        "name": POD,
        "image": deployed.image("services"),
        "command": ["python3", "-c", "import time; time.sleep(36_000)"],
        # Without a CPU request on a busy machine the load generator looks like a dead peer.
        "resources": {"requests": {"cpu": "300m", "memory": "128Mi"}},
        "env": [{"name": "GRPC_VERBOSITY", "value": "NONE"}],
        "volumeMounts": [
            {"name": "crowd", "mountPath": "/crowd"},
            {"name": "people", "mountPath": FOLDER},
        ],
    }
    volumes = [
        {"name": "crowd", "configMap": {"name": "crowd"}},
        {"name": "people", "emptyDir": {}},
    ]
    spec = restricted_spec(container, volumes)
    objects = [
        {"kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}},
        {
            "kind": "ConfigMap",
            "metadata": {"name": "crowd", "namespace": NAMESPACE},
            "data": {SCRIPT.name: SCRIPT.read_text()},
        },
        {"kind": "Pod", "metadata": {"name": POD, "namespace": NAMESPACE}, "spec": spec},
    ]
    listed = {
        "apiVersion": "v1",
        "kind": "List",
        "items": [{"apiVersion": "v1", **each} for each in objects],
    }
    # On a permanent cluster, an updated image would restart the pod some time after its readiness.
    where = ("-n", NAMESPACE, "pods", f"--field-selector=metadata.name={POD}")
    image = deployed.shell.run(
        "kubectl", "get", *where, "-o", "jsonpath={.items[*].spec.containers[*].image}"
    )
    if image.strip() not in ("", container["image"]):
        deployed.shell.run("kubectl", "delete", *where)
    deployed.shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=json.dumps(listed))
    deployed.shell.run(
        "kubectl", "wait", "-n", NAMESPACE, f"pod/{POD}", "--for=condition=Ready", "--timeout=60s"
    )


@contextmanager
def running_load(deployed: Deployed, streams: int, calls_a_second: float) -> Iterator[Load]:
    """Run streams from the start of the block; at the end the streams are read completely."""
    prepare(deployed)
    keys, load = deployed.keys("crowd", count=10), Load()
    folder = f"{FOLDER}/{uuid.uuid4()}"
    public = f"{deployed.name}-public.{deployed.namespace}"
    python(
        deployed,
        START,
        folder,
        f"/crowd/{SCRIPT.name}",
        public,
        str(streams),
        str(calls_a_second),
        stdin=json.dumps(keys),
    )
    until("all stream", lambda: bool(python(deployed, READ, f"{folder}/began")), BEGIN_SECONDS)
    try:
        yield load
    finally:
        python(deployed, TOUCH, f"{folder}/over")
    until(
        "all have ended",
        lambda: bool(python(deployed, READ, f"{folder}/observed.json")),
        END_SECONDS,
    )
    load.observed.update(json.loads(python(deployed, READ, f"{folder}/observed.json")[1:]))


def python(deployed: Deployed, *words: str, stdin: str = "") -> str:
    where = [
        "kubectl",
        "exec",
        *(["--stdin"] if stdin else []),
        "-n",
        NAMESPACE,
        POD,
        "--",
        "python3",
        "-c",
    ]
    return deployed.shell.run(*where, *words, stdin=stdin)
