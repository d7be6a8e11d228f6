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

from infra.servers.installation import find_installed
from infra.servers.prometheus import Prometheus
from infra.supervision.ports import free_port
from infra.watching.files import ALERTS
from tests.servers import Server

SERVICES = ("gateway", "guardrail", "enhancer", "session", "generator", "feedback")
SECONDS = 30


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


@contextmanager
def watched(folder: Path, targets: Mapping[str, Sequence[str]]) -> Iterator[Asked]:
    """A Prometheus that reads a system every second, with our rules."""
    prometheus = Prometheus(folder, free_port(), targets, (ALERTS,), scrape_seconds=1)
    server = Server(prometheus.prepare(find_installed().prometheus), folder)
    server.start()
    try:
        yield Asked(prometheus.url)
    finally:
        server.stop()
