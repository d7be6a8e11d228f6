"""Prometheus in the cluster, configured from the installed PodMonitors."""

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from infra.install.definitions.in_cluster import apply_definitions
from infra.install.definitions.installation import find_installed as find_definitions
from infra.machine.cluster.node import import_command
from infra.machine.images import interpreter
from infra.machine.images.archive import describe, write_archive
from infra.machine.images.layer import LayerWriter
from infra.machine.servers.installation import find_installed
from infra.run.deploy.port_forward import forward_port
from infra.run.deploy.storage import RESTRICTED
from tests.infra.run.deploy.deployed import Deployed, Values
from tests.infra.run.deploy.pod_monitors import scrape_configs, targets
from tests.journeys.prometheus import PrometheusServer

NAMESPACE, NAME, PORT = "monitoring", "prometheus", 9090
IMAGE = "localhost/thumbwheel-test-prometheus:1"
FROM = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}}
MONITORED = {
    "monitoring": {
        "podMonitors": {"enabled": True, "interval": "2s", "labels": {"release": "prometheus"}},
        "rules": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboards": {"enabled": True},
    },
    "networkPolicies": {"metricsFrom": [FROM]},
}


@contextmanager
def monitored(deployed: Deployed, *changes: Values) -> Iterator[None]:
    """Install the release with monitors, rules and dashboards, and uninstall them afterwards."""
    resources = find_definitions() / "prometheus-operator"
    apply_definitions(deployed.shell, resources)
    try:
        deployed.install(MONITORED, *changes)
        yield
    finally:
        ended(deployed)
        deployed.install()
        deployed.shell.run("kubectl", "delete", "-f", str(resources))


def started(deployed: Deployed, *others: Deployed) -> PrometheusServer:
    """Start Prometheus with the PodMonitors and PrometheusRules of the releases.

    The network policies permit only its namespace.
    """
    bring_image(deployed)
    apply(deployed, *_server(deployed, *others))
    wait = [
        "kubectl",
        "wait",
        "-n",
        NAMESPACE,
        f"pod/{NAME}",
        "--for=condition=Ready",
        "--timeout=90s",
    ]
    deployed.shell.run(*wait)
    where = ["kubectl", "get", "-n", NAMESPACE, f"pod/{NAME}", "-o", "jsonpath={.status.podIP}"]
    port = forward_port(deployed.shell, 0, deployed.shell.run(*where).strip(), PORT)
    return PrometheusServer(f"http://127.0.0.1:{port}")


def discover(deployed: Deployed, *others: Deployed) -> None:
    """Tell the running Prometheus which pods the releases have now, as its discovery would."""
    apply(deployed, _files(deployed, *others))
    # kubelet updates mounted files at once when a pod changes, otherwise within a minute.
    note = f"discovered={time.monotonic_ns()}"
    where = ("-n", NAMESPACE, f"pod/{NAME}", note, "--overwrite")
    deployed.shell.run("kubectl", "annotate", *where)


def ended(deployed: Deployed) -> None:
    deployed.shell.run("kubectl", "delete", "namespace", NAMESPACE, "--wait", "--ignore-not-found")


def apply(deployed: Deployed, *objects: dict[str, Any]) -> None:
    stdin = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    deployed.shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=stdin)


def bring_image(deployed: Deployed) -> None:
    binary = find_installed().prometheus
    with tempfile.TemporaryDirectory() as folder:
        with LayerWriter(Path(folder) / "layer.tar.gz") as writer:
            writer.file(binary.resolve(), "/prometheus")
            interpreter.write_libraries(writer, [binary])
        archive = Path(folder) / "prometheus.tar"
        write_archive(
            archive,
            IMAGE,
            describe([writer.layer], {"User": "65532:65532", "Entrypoint": ["/prometheus"]}),
        )
        deployed.shell.run(*import_command(archive))


def settings(*releases: Deployed) -> dict[str, Any]:
    """Build the configuration from the objects in the API server."""
    monitors = [monitor for each in releases for monitor in each.objects("podmonitors")]
    return {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": ["/settings/rules-*.yaml"],
        "scrape_configs": [config for monitor in monitors for config in scrape_configs(monitor)],
    }


def rules(deployed: Deployed) -> dict[str, Any]:
    return {
        "groups": [
            group
            for rule in deployed.objects("prometheusrules")
            for group in rule["spec"]["groups"]
        ]
    }


def _files(*releases: Deployed) -> dict[str, Any]:
    """Build the ConfigMap of Prometheus; each release has a file of rules, as by the operator."""
    pods = [pod for each in releases for pod in each.objects("pods")]
    running = [pod for pod in pods if "podIP" in pod["status"]]
    files = {
        "prometheus.yaml": yaml.safe_dump(settings(*releases)),
        "targets.json": json.dumps(targets(running)),
        **{f"rules-{each.name}.yaml": yaml.safe_dump(rules(each)) for each in releases},
    }
    own = {"name": NAME, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": own, "data": files}


def _server(*releases: Deployed) -> list[dict[str, Any]]:
    container = {
        "name": NAME,
        "image": IMAGE,
        "args": ["--config.file=/settings/prometheus.yaml", "--storage.tsdb.path=/data"],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": PORT}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [
            {"name": "settings", "mountPath": "/settings"},
            {"name": "data", "mountPath": "/data"},
        ],
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65_532,
            "fsGroup": 65_532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "settings", "configMap": {"name": NAME}},
            {"name": "data", "emptyDir": {}},
        ],
    }
    own = {"name": NAME, "namespace": NAMESPACE}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": RESTRICTED},
        },
        _files(*releases),
        {"apiVersion": "v1", "kind": "Pod", "metadata": own, "spec": spec},
    ]
