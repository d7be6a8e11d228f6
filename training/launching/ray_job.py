"""RayJob as seen by the launcher: its owner, whether it has ended, and the cause as text.

KubeRay's terminal states do not include ValidationFailed. Its message may contain the last 20,000
characters of the program's log, so only the exit status is reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from training.launching.kubernetes import Manifest

RAY_JOBS = "apis/ray.io/v1/rayjobs"
RUN_LABEL = "thumbwheel/turn"
ENDED = ("Complete", "Failed", "ValidationFailed")
BEGUN = ("RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
MAX_REASON_CHARACTERS = 300
EXITS = {
    1: "the run failed; see the log of its pod",
    3: "another loop uses this state",
    130: "the run was stopped",
    137: "the run was killed, possibly out of memory",
}


@dataclass(frozen=True)
class RayJob:
    """State of a RayJob.

    Attributes:
        turn: Kubernetes Job that created the RayJob.
        deployment, job: the two statuses of KubeRay.
    """

    name: str
    uid: str
    owner_job: str
    created: datetime
    suspended: bool
    deleted: bool
    deployment: str
    job: str
    reason: str
    message: str
    cluster: str

    @property
    def ended(self) -> bool:
        return self.deployment in ENDED

    @property
    def succeeded(self) -> bool:
        return self.deployment == "Complete" and self.job == "SUCCEEDED"

    @property
    def begun(self) -> bool:
        """Return True if the run is active or has been; before, only the launcher reports."""
        return self.ended or (self.deployment == "Running" and self.job in BEGUN)

    def failure(self) -> str:
        """Return the cause of the failure."""
        if code := re.search(r"exit code:? (\d+)", self.message):
            status = int(code[1])
            return EXITS.get(status, f"the run ended with exit status {status}")
        words = " ".join(self.message.split())[:MAX_REASON_CHARACTERS]
        return ": ".join(text for text in (self.reason or self.deployment, words) if text)


def parse(manifest: Manifest) -> RayJob:
    """Parse an object of the API server."""
    about, status = manifest["metadata"], manifest.get("status", {})

    def said(name: str) -> str:
        return str(status.get(name) or "")

    return RayJob(
        name=about["name"],
        uid=about["uid"],
        owner_job=about.get("labels", {}).get(RUN_LABEL, ""),
        created=datetime.fromisoformat(about["creationTimestamp"]),
        suspended=bool(manifest["spec"].get("suspend")),
        deleted="deletionTimestamp" in about,
        deployment=said("jobDeploymentStatus"),
        job=said("jobStatus"),
        reason=said("reason"),
        message=said("message"),
        cluster=said("rayClusterName"),
    )


def ray_job_manifest(template: Manifest, turn: str, owner_uid: str) -> dict[str, Any]:
    """Return the RayJob of a run from the chart's template, owned by a Kubernetes Job."""
    about = template["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": turn, "uid": owner_uid}
    labels = {**about.get("labels", {}), RUN_LABEL: turn}
    return {**template, "metadata": {**about, "labels": labels, "ownerReferences": [owner]}}
