"""A real Prometheus beside a running system, asked over its HTTP API."""

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

from infra.servers.installation import locate
from infra.servers.prometheus import Prometheus
from infra.supervision.ports import free_port
from infra.watching.files import ALERTS
from infra.watching.panels import Dashboard
from tests.servers import Server

SERVICES = ("gateway", "guardrail", "enhancer", "session", "generator", "feedback")
SECONDS = 30
# Longer than all of a test's traffic, and what Grafana would put in.
RATE_INTERVAL = "5m"


@dataclass(frozen=True)
class Asked:
    """One running Prometheus."""

    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What it finds now. An expression that does not parse raises."""
        form = urllib.parse.urlencode({"query": expression})
        try:
            found = self._get(f"/api/v1/query?{form}")["result"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        return list(found)

    def alerts(self) -> dict[str, dict[str, Any]]:
        """The rules that it has loaded, by name."""
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
    """Why a query may find nothing: by words of it."""
    return next((why for words, why in excused.items() if words in expression), "")


def check_panels(
    asked: Asked, board: Dashboard, excused: Mapping[str, str], perhaps: Sequence[str] = ()
) -> None:
    """Every query is asked and finds series; an excused one must find none, and one with words of
    `perhaps` may do either.
    """
    empty, found_after_all = [], []
    for panel in (panel for row in board.rows for panel in row.panels):
        for query in panel.queries:
            found = asked.query(query.expression.replace("$__rate_interval", RATE_INTERVAL))
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
def watched(folder: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[Asked]:
    """A Prometheus that reads a system every second, with our rules."""
    prometheus = Prometheus(folder, free_port(), targets, (ALERTS,), scrape_seconds=1)
    server = Server(prometheus.prepare(locate().prometheus), folder)
    server.start()
    try:
        yield Asked(prometheus.url)
    finally:
        server.stop()
