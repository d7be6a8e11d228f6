"""A RayJob as the launcher sees it: whose it is, whether it has ended, and why, in words for
people.

KubeRay leaves ValidationFailed out of its terminal states, and its message may hold the last 20,000
characters of the program's log: of that only the exit status is told.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from training.launching.kubernetes import Manifest

RAY_JOBS = "apis/ray.io/v1/rayjobs"
TURN_LABEL = "thumbwheel/turn"
ENDED = ("Complete", "Failed", "ValidationFailed")
BEGUN = ("RUNNING", "STOPPED", "SUCCEEDED", "FAILED")
MAX_REASON_CHARACTERS = 300
EXITS = {
    1: "the turn failed; the log of its pod says why",
    3: "another loop holds this state",
    130: "it was told to stop",
    137: "it was killed, as for want of memory",
}


@dataclass(frozen=True)
class RayJob:
    """`turn` is the Kubernetes Job that it was made for; `deployment` and `job` are KubeRay's two
    statuses of it.
    """

    name: str
    uid: str
    turn: str
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
        """Whether the turn itself runs or has run: until then nobody else says what is going on."""
        return self.ended or (self.deployment == "Running" and self.job in BEGUN)

    def failure(self) -> str:
        """Why it failed."""
        if code := re.search(r"exit code:? (\d+)", self.message):
            status = int(code[1])
            return EXITS.get(status, f"the turn ended with exit status {status}")
        words = " ".join(self.message.split())[:MAX_REASON_CHARACTERS]
        return ": ".join(text for text in (self.reason or self.deployment, words) if text)


def parse(manifest: Manifest) -> RayJob:
    """From the API server's answer."""
    about, status = manifest["metadata"], manifest.get("status", {})

    def said(name: str) -> str:
        return str(status.get(name) or "")

    return RayJob(
        name=about["name"],
        uid=about["uid"],
        turn=about.get("labels", {}).get(TURN_LABEL, ""),
        created=datetime.fromisoformat(about["creationTimestamp"]),
        suspended=bool(manifest["spec"].get("suspend")),
        deleted="deletionTimestamp" in about,
        deployment=said("jobDeploymentStatus"),
        job=said("jobStatus"),
        reason=said("reason"),
        message=said("message"),
        cluster=said("rayClusterName"),
    )


def filled(template: Manifest, turn: str, owner_uid: str) -> dict[str, Any]:
    """The chart's template as the RayJob of one turn. With the Kubernetes Job that it belongs to,
    it goes.
    """
    about = template["metadata"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": turn, "uid": owner_uid}
    labels = {**about.get("labels", {}), TURN_LABEL: turn}
    return {**template, "metadata": {**about, "labels": labels, "ownerReferences": [owner]}}
