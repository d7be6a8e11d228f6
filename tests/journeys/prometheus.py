"""A real Prometheus that scrapes a running system, queried over its HTTP API."""

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.machine.servers.installation import locate
from infra.machine.servers.prometheus import Prometheus
from infra.run.supervision.ports import free_port
from infra.service_table import service_table
from infra.watching.grafana import scoped
from infra.watching.panels import Dashboard
from infra.watching.rules import local_rules
from tests.servers import Server

SERVICES = tuple(service.name for service in service_table().grpc)
SECONDS = 30
# Range for Grafana's variable, longer than the traffic of a test.
RATE_INTERVAL = "5m"


@dataclass(frozen=True)
class PrometheusServer:
    """A running Prometheus server."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the result of a query. An invalid expression raises."""
        form = urllib.parse.urlencode({"query": expression})
        try:
            found = self._get(f"/api/v1/query?{form}")["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        return list(found)

    def alerts(self) -> dict[str, dict[str, Any]]:
        """Return the loaded alerting rules by name."""
        groups = self._get("/api/v1/rules")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def wait(self, what: str, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < end, f"after {SECONDS} s still not so: {what}"
            time.sleep(0.2)

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self.url + path, timeout=SECONDS) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
            return data


def excuse(excused: Mapping[str, str], expression: str) -> str:
    """Return the accepted reason for an empty result, by words of the query."""
    return next((why for words, why in excused.items() if words in expression), "")


def check_panels(
    asked: PrometheusServer,
    board: Dashboard,
    excused: Mapping[str, str],
    perhaps: Sequence[str] = (),
    release: tuple[str, str] = ("", ""),
) -> None:
    """Run all queries of the panels as Grafana sends them. Each must find series.

    An excused query must find none. A query with words of `perhaps` may do either.

    Args:
        release: namespace and release, as selected in Grafana.
    """
    selected = {"$__rate_interval": RATE_INTERVAL, "$version": ".*"}
    selected |= {"$namespace": release[0], "$release": release[1]}
    empty, found_after_all = [], []
    for panel in (panel for row in board.rows for panel in row.panels):
        for query in panel.queries:
            sent = scoped(query.expression, board)
            for variable, value in selected.items():
                sent = sent.replace(variable, value)
            found = asked.query(sent)
            if any(words in query.expression for words in perhaps):
                continue
            why = excuse(excused, query.expression)
            if not found and not why:
                empty.append(f"{panel.title}: {query.expression}")
            if found and why:
                found_after_all.append(f"{query.expression}: {why}")
    assert not empty, empty
    assert not found_after_all, found_after_all


@contextmanager
def watched(folder: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[PrometheusServer]:
    """Run a Prometheus that scrapes a system every second, with the product's rules."""
    prometheus = Prometheus(folder, free_port(), targets, local_rules(targets), scrape_seconds=1)
    server = Server(prometheus.prepare(locate().prometheus), folder)
    server.start()
    try:
        yield PrometheusServer(prometheus.url)
    finally:
        server.stop()
