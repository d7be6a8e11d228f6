"""Scrape configurations that the Prometheus Operator generates from our PodMonitors.

Modelled on prometheus-operator, pkg/prometheus/promcfg.go, generatePodMonitorConfig, with the same
order, so that the relabelings of the monitor are last. Debian's Prometheus lacks Kubernetes
discovery; its result (role: pod) is a file of targets.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
POD, TARGETS = "__meta_kubernetes_pod", "/settings/targets.json"


def scrape_configs(monitor: Json) -> list[dict[str, Any]]:
    """Return a configuration per endpoint of a PodMonitor."""
    return [
        _config(monitor, number, one)
        for number, one in enumerate(monitor["spec"]["podMetricsEndpoints"])
    ]


def targets(pods: Sequence[Json]) -> list[dict[str, Any]]:
    """Return a target per container port, with the labels of discovery for the role `pod`."""
    return [
        {
            "targets": [f"{pod['status']['podIP']}:{port['containerPort']}"],
            "labels": {
                **_labels(pod["metadata"]["labels"]),
                "__meta_kubernetes_namespace": pod["metadata"]["namespace"],
                f"{POD}_name": pod["metadata"]["name"],
                f"{POD}_phase": pod["status"]["phase"],
                f"{POD}_container_name": container["name"],
                f"{POD}_container_port_name": port.get("name", ""),
            },
        }
        for pod in pods
        for container in pod["spec"]["containers"]
        for port in container.get("ports", ())
    ]


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    named = {f"{POD}_label_{_safe(name)}": value for name, value in labels.items()}
    return named | {f"{POD}_labelpresent_{_safe(name)}": "true" for name in labels}


def _config(monitor: Json, number: int, endpoint: Json) -> dict[str, Any]:
    metadata, spec = monitor["metadata"], monitor["spec"]
    name, namespace = metadata["name"], metadata["namespace"]
    rules: list[dict[str, Any]] = [
        # Discovery asks for the pods of the namespace of the monitor only.
        _keep(["__meta_kubernetes_namespace"], namespace),
        {"source_labels": [f"{POD}_phase"], "regex": "(Failed|Succeeded)", "action": "drop"},
    ]
    for label, value in spec["selector"]["matchLabels"].items():
        rules.append(
            _keep(
                [f"{POD}_label_{_safe(label)}", f"{POD}_labelpresent_{_safe(label)}"],
                f"({value});true",
            )
        )
    rules += [
        _keep([f"{POD}_container_port_name"], endpoint["port"]),
        _copy("__meta_kubernetes_namespace", "namespace"),
        _copy(f"{POD}_container_name", "container"),
        _copy(f"{POD}_name", "pod"),
        {"target_label": "job", "replacement": f"{namespace}/{name}"},
        {"target_label": "endpoint", "replacement": endpoint["port"]},
    ]
    rules += [
        _copy(f"{POD}_label_{_safe(label)}", _safe(label))
        for label in spec.get("podTargetLabels", ())
    ]
    rules += [_own(rule) for rule in endpoint.get("relabelings", ())]
    return {
        "job_name": f"podMonitor/{namespace}/{name}/{number}",
        "metrics_path": endpoint["path"],
        "scrape_interval": endpoint["interval"],
        "file_sd_configs": [{"files": [TARGETS]}],
        "relabel_configs": rules,
    }


def _own(rule: Json) -> dict[str, Any]:
    """Convert a relabeling of the monitor from camel case to underscores."""
    return {
        re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", key): value
        for key, value in rule.items()
    }


def _keep(labels: list[str], regex: str) -> dict[str, Any]:
    return {"source_labels": labels, "regex": regex, "action": "keep"}


def _copy(label: str, to: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": "(.+)", "target_label": to, "replacement": "$1"}


def _safe(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)
