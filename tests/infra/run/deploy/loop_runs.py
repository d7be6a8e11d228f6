"""Runs of the loop on the test cluster, observed on the page and in Prometheus."""

import json
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from infra.machine.cluster.errors import ClusterError
from tests.infra.run.deploy.deployed import Deployed, until
from tests.journeys.client import text_of

TRAINING = ("sft", "reward_model", "judge", "health", "ppo")
STARTED = "started"


@dataclass(frozen=True)
class LoopRuns:
    """Runs of a release."""

    deployed: Deployed

    def status(self) -> Any:
        """Return the status of the loop from the API.

        The status is empty before the first run and on a busy gateway.
        """
        try:
            status, answer = self.deployed.person().call("GET", "/api/loop")
        except (OSError, HTTPException):
            return {}
        assert status in (200, 404), answer
        return answer if status == 200 else {}

    def has_result(self, name: str) -> bool:
        """Return True if the metric of the gateway shows this result of the last run."""
        code = (
            "import urllib.request as r; "
            "print(r.urlopen('http://127.0.0.1:51051/metrics').read().decode())"
        )
        return (
            f'thumbwheel_loop_turn_result{{recipe="nano",result="{name}"}} 1.0'
            in self.deployed.python("gateway", "-c", code)
        )

    def start_run(self, name: str, *more_words: str) -> None:
        """Start a Job from the CronJob, with extra arguments for the loop."""
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
        self.deployed.kubectl("create", "-f", "-", stdin=json.dumps(job))

    def ended(self, name: str) -> str:
        """Return Complete, Failed, or "" while running."""
        (job,) = self.deployed.objects("jobs", "--field-selector", f"metadata.name={name}")
        found = [c["type"] for c in job["status"].get("conditions", ()) if c["status"] == "True"]
        return next((kind for kind in found if kind in ("Complete", "Failed")), "")

    def wait_ended(self, name: str, seconds: float) -> str:
        until(f"{name} has ended: {self.log(name)}", lambda: bool(self.ended(name)), seconds)
        return self.ended(name)

    def log(self, name: str) -> str:
        """Return the last lines of the newest pod."""
        try:
            return self.deployed.kubectl("logs", f"job/{name}", "--tail=40")
        except ClusterError as error:
            return str(error)

    def pods_of(self, name: str) -> list[dict[str, Any]]:
        return self.deployed.objects("pods", "--selector", f"job-name={name}")

    def served_version(self) -> str:
        """Return the version that serves users."""
        events = self.deployed.person().ask("Hello, how are you?")
        assert text_of(events)
        return str(next(event[STARTED] for event in events if STARTED in event)["modelVersion"])
