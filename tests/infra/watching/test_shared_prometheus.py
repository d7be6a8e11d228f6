"""A real Prometheus that scrapes two releases by their PodMonitors and evaluates their rules."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from infra.machine.servers.installation import locate
from infra.machine.servers.prometheus import Prometheus
from infra.run.supervision.ports import free_port
from infra.service_table import service_table
from tests.charts.rendering import of_kind, render
from tests.infra.run.deploy.pod_monitors import TARGETS, scrape_configs, targets
from tests.journeys.prometheus import PrometheusServer
from tests.servers import Server

NAMESPACES = ("chat", "staging")
AT_ONCE = "monitoring.rules.thresholds.ServiceDown.for=0s"
Pod = Mapping[str, Any]


class Metrics(BaseHTTPRequestHandler):
    """Metrics of a pod without any series; Prometheus adds `up`."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Suppress the log of requests."""


@contextmanager
def metrics_port() -> Iterator[int]:
    """Serve metrics on a port of the loopback interface."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Metrics) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def pod(namespace: str, workload: Mapping[str, Any], port: int) -> Pod:
    """Return a running pod of a workload, with the labels of its template."""
    template = workload["spec"]["template"]
    name = template["spec"]["containers"][0]["name"]
    ports = [{"name": "metrics", "containerPort": port}]
    return {
        "metadata": {**template["metadata"], "namespace": namespace, "name": f"{name}-0"},
        "spec": {"containers": [{"name": name, "ports": ports}]},
        "status": {"podIP": "127.0.0.1", "phase": "Running"},
    }


@pytest.mark.slow
def test_a_service_without_pods_is_reported_for_its_release_only(tmp_path: Path) -> None:
    found, groups, pods = tmp_path / "targets.json", [], []
    prometheus = Prometheus(tmp_path, free_port(), scrape_seconds=1)
    programs = prometheus.prepare(locate().prometheus)
    settings = json.loads((tmp_path / "prometheus.json").read_text())
    settings["scrape_configs"] = []
    with ExitStack() as ports:
        for namespace in NAMESPACES:
            objects = render("gitops-values.yaml", AT_ONCE, namespace=namespace)
            (monitor,) = of_kind(objects, "PodMonitor")
            placed = {**monitor, "metadata": {**monitor["metadata"], "namespace": namespace}}
            settings["scrape_configs"] += scrape_configs(placed)
            (rules,) = of_kind(objects, "PrometheusRule")
            groups += [
                {**group, "name": f"{namespace} {group['name']}", "interval": "1s"}
                for group in rules["spec"]["groups"]
            ]
            pods += [
                pod(namespace, workload, ports.enter_context(metrics_port()))
                for workload in of_kind(objects, "Deployment", "StatefulSet")
                if workload["spec"]["template"]["spec"]["containers"][0]["name"]
                in service_table().names
            ]
        assert len(pods) == len(NAMESPACES) * len(service_table().names)
        text = json.dumps(settings).replace(TARGETS, str(found)).replace('"15s"', '"1s"')
        (tmp_path / "prometheus.json").write_text(text)
        (tmp_path / "alerts.yaml").write_text(json.dumps({"groups": groups}))
        found.write_text(json.dumps(targets(pods)))
        server = Server(programs, tmp_path)
        server.start()
        try:
            asked = PrometheusServer(prometheus.url)
            check_release_with_the_fault(asked, found, pods)
        finally:
            server.stop()


def check_release_with_the_fault(asked: PrometheusServer, file: Path, pods: list[Pod]) -> None:
    """Delete the pods of session of the first release while all services of both run."""

    def firing() -> list[dict[str, str]]:
        return [one["metric"] for one in asked.query('ALERTS{alertstate="firing"}')]

    asked.wait("all are scraped", lambda: len(asked.query("up == 1")) == len(pods))
    labels = {(one["metric"]["namespace"], one["metric"]["release"]) for one in asked.query("up")}
    assert labels == {(namespace, "tw") for namespace in NAMESPACES}
    asked.wait("nothing fires", lambda: not firing())
    left = [
        one
        for one in pods
        if (one["metadata"]["namespace"], one["metadata"]["name"]) != ("chat", "session-0")
    ]
    assert len(left) == len(pods) - 1
    new = file.with_suffix(".new")
    new.write_text(json.dumps(targets(left)))
    new.rename(file)
    asked.wait("an alert fires", lambda: bool(firing()))
    (alert,) = firing()
    expected = {"alertname": "ServiceDown", "job": "session", "namespace": "chat", "release": "tw"}
    assert alert.items() >= expected.items()
