"""Turns of the loop on the cluster under test: begun by hand as people do it, watched as the page
and Prometheus see them.
"""

import json
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from infra.cluster.errors import ClusterError
from tests.infra.deploy.deployed import Deployed, until
from tests.journeys.client import text_of

TRAINING = ("sft", "reward_model", "judge", "health", "ppo")
STARTED = "started"


@dataclass(frozen=True)
class Turns:
    """Those of one release."""

    deployed: Deployed

    def shown(self) -> Any:
        """The loop's status, as the page gets it; nothing before the first turn, or where the door
        was too busy.
        """
        try:
            status, answer = self.deployed.person().call("GET", "/api/loop")
        except (OSError, HTTPException):
            return {}
        assert status in (200, 404), answer
        return answer if status == 200 else {}

    def result(self, name: str) -> bool:
        """Whether the last turn came to this, as Prometheus would read it of the gateway."""
        code = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:51051/metrics').read().decode())"
        return (
            f'thumbwheel_loop_turn_result{{recipe="nano",result="{name}"}} 1.0'
            in self.deployed.python("gateway", "-c", code)
        )

    def begin(self, name: str, *more_words: str) -> None:
        """Without waiting for the night; with more words for the loop than the chart gives it."""
        words = [
            f"--from=cronjob/{self.deployed.name}-training",
            name,
            "--dry-run=client",
            "-o",
            "json",
        ]
        job = json.loads(self.deployed.kubectl("create", "job", *words))
        (container,) = job["spec"]["template"]["spec"]["containers"]
        container["args"] += more_words
        self.deployed.kubectl("create", "-f", "-", said=json.dumps(job))

    def ended(self, name: str) -> str:
        """Complete, Failed, or nothing yet."""
        (job,) = self.deployed.objects("jobs", "--field-selector", f"metadata.name={name}")
        found = [c["type"] for c in job["status"].get("conditions", ()) if c["status"] == "True"]
        return next((kind for kind in found if kind in ("Complete", "Failed")), "")

    def wait_ended(self, name: str, seconds: float) -> str:
        until(f"{name} has ended: {self.log(name)}", lambda: bool(self.ended(name)), seconds)
        return self.ended(name)

    def log(self, name: str) -> str:
        """The last lines of its newest pod."""
        try:
            return self.deployed.kubectl("logs", f"job/{name}", "--tail=40")
        except ClusterError as error:
            return str(error)

    def pods_of(self, name: str) -> list[dict[str, Any]]:
        return self.deployed.objects("pods", "--selector", f"job-name={name}")

    def answering_version(self) -> str:
        """Who answers now."""
        events = self.deployed.person().ask("Hello, how are you?")
        assert text_of(events)
        return str(next(event[STARTED] for event in events if STARTED in event)["modelVersion"])
