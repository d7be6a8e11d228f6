"""Prometheus with scrape targets and rules given by the caller."""

import asyncio
import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST

SCRAPE_SECONDS = 5
RETENTION = "2d"
TIMEOUT_SECONDS = 4.0


@dataclass(frozen=True)
class Prometheus:
    """A server on loopback.

    Args:
        targets: host:port of every /metrics by job.
        rules: text of a file of alert rules. Alerts appear on the page of Prometheus; no receiver
            is configured.
    """

    folder: Path
    port: int
    targets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    rules: str = ""
    scrape_seconds: int = SCRAPE_SECONDS

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def prepare(self, binary: Path) -> tuple[Program, ...]:
        """Write the rules, and the settings as JSON, a subset of YAML."""
        self.folder.mkdir(parents=True, exist_ok=True)
        settings = self.folder / "prometheus.json"
        alerts = self.folder / "alerts.yaml"
        alerts.write_text(self.rules)
        every = f"{self.scrape_seconds}s"
        jobs = {"prometheus": [f"{HOST}:{self.port}"], **self.targets}
        content = {
            "global": {"scrape_interval": every, "evaluation_interval": every},
            "rule_files": [str(alerts)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]}
                for job, targets in jobs.items()
            ],
        }
        settings.write_text(json.dumps(content, indent=2))
        command = (
            *(
                str(binary),
                f"--config.file={settings}",
                f"--storage.tsdb.path={self.folder / 'data'}",
            ),
            *(
                f"--web.listen-address={HOST}:{self.port}",
                f"--storage.tsdb.retention.time={RETENTION}",
            ),
        )
        ready = partial(is_ready, self.url)
        return (Program("prometheus", command, {"GOMEMLIMIT": "256MiB"}, self.port, ready=ready),)


async def is_ready(url: str) -> bool:
    """Return True if /-/ready responds with 200."""
    return await asyncio.to_thread(responds, f"{url}/-/ready")


def responds(url: str) -> bool:
    """Return True if a GET returns 200."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            return bool(response.status == 200)
    except OSError:
        return False
