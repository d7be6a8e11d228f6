"""Runs of the loop on the test cluster, observed on the page and in Prometheus."""

from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from tests.infra.run.deploy.cron_jobs import CronJob
from tests.journeys.client import text_of

TRAINING = ("sft", "reward_model", "judge", "health", "ppo")
STARTED = "started"


@dataclass(frozen=True)
class LoopRuns(CronJob):
    """Runs of a release."""

    component: str = "training"

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

    def served_version(self) -> str:
        """Return the version that serves users."""
        events = self.deployed.person().ask("Hello, how are you?")
        assert text_of(events)
        return str(next(event[STARTED] for event in events if STARTED in event)["modelVersion"])
