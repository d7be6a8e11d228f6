"""What the Prometheus Operator makes of PodMonitors, as far as ours go: scrape configurations with the pods found by the API.

After its own generator (prometheus-operator, pkg/prometheus/promcfg.go, generatePodMonitorConfig); the order is its order, so that the
monitor's own relabelings come last.
"""

import re
from collections.abc import Mapping
from typing import Any

Json = Mapping[str, Any]
POD = "__meta_kubernetes_pod"


def scrape_configs(monitor: Json) -> list[dict[str, Any]]:
    """One for each of its endpoints."""
    return [_config(monitor, number, one) for number, one in enumerate(monitor["spec"]["podMetricsEndpoints"])]


def _config(monitor: Json, number: int, endpoint: Json) -> dict[str, Any]:
    metadata, spec = monitor["metadata"], monitor["spec"]
    name, namespace = metadata["name"], metadata["namespace"]
    rules: list[dict[str, Any]] = [{"source_labels": [f"{POD}_phase"], "regex": "(Failed|Succeeded)", "action": "drop"}]
    for label, value in spec["selector"]["matchLabels"].items():
        rules.append(_keep([f"{POD}_label_{_safe(label)}", f"{POD}_labelpresent_{_safe(label)}"], f"({value});true"))
    rules += [
        _keep([f"{POD}_container_port_name"], endpoint["port"]),
        _copy("__meta_kubernetes_namespace", "namespace"),
        _copy(f"{POD}_container_name", "container"),
        _copy(f"{POD}_name", "pod"),
        {"target_label": "job", "replacement": f"{namespace}/{name}"},
        {"target_label": "endpoint", "replacement": endpoint["port"]},
    ]
    rules += [_copy(f"{POD}_label_{_safe(label)}", _safe(label)) for label in spec.get("podTargetLabels", ())]
    rules += [_own(rule) for rule in endpoint.get("relabelings", ())]
    return {
        "job_name": f"podMonitor/{namespace}/{name}/{number}",
        "metrics_path": endpoint["path"],
        "scrape_interval": endpoint["interval"],
        "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [namespace]}}],
        "relabel_configs": rules,
    }


def _own(rule: Json) -> dict[str, Any]:
    """Of the monitor: names in camel case there, with underscores here."""
    return {re.sub("([A-Z])", lambda found: f"_{found[1].lower()}", key): value for key, value in rule.items()}


def _keep(labels: list[str], regex: str) -> dict[str, Any]:
    return {"source_labels": labels, "regex": regex, "action": "keep"}


def _copy(label: str, to: str) -> dict[str, Any]:
    return {"source_labels": [label], "regex": "(.+)", "target_label": to, "replacement": "$1"}


def _safe(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", label)
