"""An OpenAI-compatible endpoint in a pod, whose answers are fixed and need a key."""

import json
from pathlib import Path

from infra.run.deploy.storage import RESTRICTED
from tests.infra.run.deploy.deployed import Deployed
from tests.infra.run.deploy.restricted_pods import restricted_spec
from tests.services.generator import predictor

NAMESPACE = NAME = "provider"
MODEL, KEY, PORT, WORDS = "large-2", "sk-key-of-the-test", 8000, ["Hello", " from", " afar."]
SERVE = """
import asyncio, json, sys
sys.path.insert(0, "/endpoint")
import predictor
async def serve(fields, port):
    async with predictor.predictor_server(predictor.FakePredictor(**fields), port, "0.0.0.0"):
        await asyncio.Event().wait()
asyncio.run(serve(json.loads(sys.argv[1]), int(sys.argv[2])))
"""
URL = f"http://{NAME}.{NAMESPACE}.svc:{PORT}/v1"
PEERS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}
EGRESS = [{"to": [PEERS], "ports": [{"port": PORT, "protocol": "TCP"}]}]


def start_endpoint(deployed: Deployed) -> None:
    """Start the endpoint in a namespace of its own and wait until it listens."""
    own = {"name": NAME, "namespace": NAMESPACE}
    fields = json.dumps({"states": {MODEL: "READY"}, "key": KEY, "script": WORDS})
    container = {
        "name": NAME,
        "image": deployed.image("services"),
        "command": ["python3", "-c", SERVE, fields, str(PORT)],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "volumeMounts": [{"name": "endpoint", "mountPath": "/endpoint"}],
    }
    spec = restricted_spec(container, [{"name": "endpoint", "configMap": {"name": NAME}}])
    source = Path(predictor.__file__)
    labels = {"app": NAME}
    objects = [
        {"kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}},
        {"kind": "ConfigMap", "metadata": own, "data": {source.name: source.read_text()}},
        {"kind": "Pod", "metadata": {**own, "labels": labels}, "spec": spec},
        {
            "kind": "Service",
            "metadata": own,
            "spec": {"selector": labels, "ports": [{"port": PORT}]},
        },
    ]
    items = [{"apiVersion": "v1", **each} for each in objects]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    deployed.shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=listed)
    ready = ("-n", NAMESPACE, f"pod/{NAME}", "--for=condition=Ready", "--timeout=90s")
    deployed.shell.run("kubectl", "wait", *ready)


def remove_endpoint(deployed: Deployed) -> None:
    words = ("delete", "namespace", NAMESPACE, "--wait", "--ignore-not-found")
    deployed.shell.run("kubectl", *words)
