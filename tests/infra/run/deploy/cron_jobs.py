"""Jobs that are started by hand from a CronJob of the release."""

import json
from dataclasses import dataclass
from typing import Any

from infra.machine.cluster.errors import ClusterError
from tests.infra.run.deploy.deployed import Deployed, until


@dataclass(frozen=True)
class CronJob:
    """CronJob of a release and its Jobs."""

    deployed: Deployed
    component: str

    def start_run(self, name: str, *more_words: str) -> None:
        """Start a Job, with extra arguments for its container."""
        words = [
            f"--from=cronjob/{self.deployed.name}-{self.component}",
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
