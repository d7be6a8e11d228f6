"""Points on monitoring: metrics, alerts and dashboards."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from infra.check.chart.chart import RELEASE, Chart, Object
from infra.check.chart.points import Findings, Point
from infra.check.chart.workloads import of_kind, pods, selects, servers, title

MONITORS = ("PodMonitor", "ServiceMonitor", "VMPodScrape", "VMServiceScrape")
RULES = ("PrometheusRule", "VMRule")
NAMESPACE_MATCHER = re.compile(r"\b(?:exported_)?namespace\s*(?:=~?|!~|!=)|\brelease\s*=")


def monitors(chart: Chart) -> Findings | None:
    """Require monitors of the Prometheus Operator that select pods or Services of the release.

    Every server with a port whose name contains `metrics` must be selected. A monitor may also
    select pods that only an operator creates.
    """
    found = servers(chart.objects)
    if not found:
        return None
    own = of_kind(chart.objects, *MONITORS)
    if not own:
        return [f"no {' or '.join(MONITORS[:2])} with these values"]
    services = of_kind(chart.objects, "Service")
    scraped: list[Mapping[str, str]] = []
    for monitor in own:
        selector = monitor["spec"].get("selector")
        labels = [pod.labels for pod in pods(chart.objects)]
        if "Service" in monitor["kind"]:
            chosen = [
                service["spec"].get("selector") or {}
                for service in services
                if selects(selector, service["metadata"].get("labels") or {})
            ]
            hits = [
                item for item in labels if any(selects({"matchLabels": c}, item) for c in chosen)
            ]
        else:
            hits = [item for item in labels if selects(selector, item)]
        scraped += hits
    if not scraped:
        return [f"{title(monitor)}: selects no pod of the rendering" for monitor in own]
    return [
        f"{pod.name}: not scraped"
        for pod in found
        if pod.labels not in scraped
        and any(
            "metrics" in str(port.get("name"))
            for container in pod.main_containers
            for port in container.get("ports") or []
        )
    ]


def alerts(chart: Chart) -> Findings | None:
    """Require alerts with a severity, a summary or description, and an http URL of a runbook."""
    found = list(_alerts(chart))
    if not found:
        return ["no PrometheusRule with alerts with these values"]
    breaks = []
    for rule in found:
        labels, notes = rule.get("labels") or {}, rule.get("annotations") or {}
        missing = [
            *([] if labels.get("severity") else ["severity"]),
            *([] if notes.get("summary") or notes.get("description") else ["summary"]),
            *([] if re.match(r"https?://", str(notes.get("runbook_url"))) else ["runbook_url"]),
        ]
        if missing:
            breaks.append(f"{rule['alert']}: {', '.join(missing)}")
    return breaks


def alert_scope(chart: Chart) -> Findings | None:
    """Require that the expression of every alert selects a namespace or a release."""
    found = list(_alerts(chart))
    if not found:
        return None
    return [
        str(rule["alert"])
        for rule in found
        if not NAMESPACE_MATCHER.search(str(rule["expr"])) and RELEASE not in str(rule["expr"])
    ]


def _alerts(chart: Chart) -> Iterator[Mapping[str, Any]]:
    for item in of_kind(chart.objects, *RULES):
        for group in item["spec"].get("groups") or []:
            yield from (rule for rule in group.get("rules") or [] if "alert" in rule)


def dashboards(chart: Chart) -> Findings | None:
    """Require dashboards of Grafana as ConfigMaps or GrafanaDashboards, each with a namespace.

    The namespace is a variable or a matcher in the queries.
    """
    found = [(title(item), text) for item in chart.objects for text in _dashboards(item)]
    if not found:
        return ["no dashboard with these values"]
    return [
        f"{name}: no namespace"
        for name, text in found
        if not NAMESPACE_MATCHER.search(text) and '"name": "namespace"' not in text
    ]


def _dashboards(item: Object) -> Iterator[str]:
    texts = [
        *(item.get("data") or {}).values(),
        *([item["spec"]["json"]] if item["kind"] == "GrafanaDashboard" else []),
    ]
    for text in texts if item["kind"] in ("ConfigMap", "GrafanaDashboard") else []:
        try:
            board = json.loads(text)
        except (TypeError, json.JSONDecodeError):
            continue
        if isinstance(board, dict) and ("panels" in board or "rows" in board):
            yield json.dumps(board)


POINTS = (
    Point(
        "monitors",
        "Metrics of every server are collected by monitors of the Prometheus Operator.",
        "A service without metrics fails unseen.",
        monitors,
    ),
    Point(
        "alerts",
        "The chart brings alerts, each with a severity and the URL of a runbook.",
        "Who is woken at night needs to know what to do.",
        alerts,
    ),
    Point(
        "alert-scope",
        "Every alert selects its namespace or release.",
        "A second release on the same Prometheus falsifies alerts otherwise.",
        alert_scope,
    ),
    Point(
        "dashboards",
        "The chart brings dashboards that select a namespace.",
        "Staging and production are added up otherwise.",
        dashboards,
    ),
)
