"""Runs as RayJobs of the real KubeRay operator.

Failures of processes lead to a single complete run. Reasons for a missing start appear on the page.
"""

import json
import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

from infra.machine.cluster.errors import ClusterError
from infra.run.deploy.release import overlaid
from infra.run.deploy.training import RayMode, chart_values
from tests.infra.run.deploy.deployed import until
from tests.infra.run.deploy.loop_runs import TRAINING, LoopRuns
from tests.infra.run.deploy.raters import fill_bucket, keys, rate_while
from tests.infra.run.deploy.runbook_runs import run_block
from tests.support.runbooks import look

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3600)]
RAY_MODE, UNTRIED = "kuberay", "runs are not tried as RayJobs"
NAME = "thumbwheel-run"
HEAD, WORKER = "ray.io/node-type=head", "ray.io/node-type=worker"
LATER = ("evaluation", "gate", "canary")
STEP_SECONDS, TURN_SECONDS = 300.0, 1500.0
Changes = Mapping[str, Any]


def configure(runs: LoopRuns, changes: Changes) -> None:
    """Change the run configuration of the release."""
    runs.deployed.install(chart_values(RayMode.KUBERAY), runs.deployed.images("training"), changes)


def ray_jobs(runs: LoopRuns, *more_words: str) -> list[dict[str, Any]]:
    return runs.deployed.objects("rayjobs", *more_words)


def ray_pods(runs: LoopRuns, selector: str) -> dict[str, str]:
    """Return the uids of running pods by name."""
    found = runs.deployed.objects("pods", "--selector", selector)
    return {
        pod["metadata"]["name"]: pod["metadata"]["uid"]
        for pod in found
        if pod["status"]["phase"] == "Running"
    }


def kill(runs: LoopRuns, *names: str) -> None:
    runs.deployed.kubectl("delete", "pod", *names, "--grace-period=0", "--force")


SHORT_DEADLINE = {"training": {"deadlineSeconds": 45, "retries": 0}}
# Words in the message for each case: part of the Ray cluster, names of ours and of Kubernetes.
BLOCKED_CASES: dict[str, tuple[Changes, tuple[str, ...]]] = {
    "an image that is nowhere": (
        {"images": {"training": {"repository": "localhost/thumbwheel-nowhere"}}},
        ("head", "localhost/thumbwheel-nowhere"),
    ),
    "more than any node has": (
        {"ray": {"workers": {"resources": {"requests": {"cpu": "64"}}}}},
        ("worker", "Insufficient cpu"),
    ),
    "a volume that is not there": (
        {"training": {"extraVolumes": [{"name": "packages", "configMap": {"name": "nowhere"}}]}},
        ("head", "FailedMount"),
    ),
    "a pod that the standard refuses": (
        {"training": {"extraVolumes": [{"name": "packages", "hostPath": {"path": "/"}}]}},
        ("violates PodSecurity",),
    ),
}


@pytest.mark.long
@pytest.mark.parametrize("case", BLOCKED_CASES)
def test_blocked_run_is_explained_and_removed_after_its_deadline(runs: LoopRuns, case: str) -> None:
    changes, named = BLOCKED_CASES[case]
    configure(runs, overlaid(SHORT_DEADLINE, changes))
    name = f"turn-{sorted(BLOCKED_CASES).index(case)}-of-none"
    runs.start_run(name)
    until(
        f"the page names {', '.join(named)}",
        lambda: all(word in details(runs.status()) for word in named),
        60,
    )
    assert runs.status()["result"] is None
    assert runs.wait_ended(name, STEP_SECONDS) == "Failed"
    status = runs.status()
    assert status["result"] == "failed"
    for word in ("45 s", *named):
        assert word in status["reason"]
    assert runs.has_result("failed")
    until("its RayJob is gone", lambda: not ray_jobs(runs))


def details(status: Mapping[str, Any]) -> str:
    return "; ".join(step["detail"] for step in status.get("steps", ()))


@pytest.mark.long
def test_failed_application_is_reported_with_exit_status(runs: LoopRuns) -> None:
    configure(runs, {"training": {"retries": 0, "extraArgs": ["--no-such-word"]}})
    runs.start_run("turn-of-none")
    assert runs.wait_ended("turn-of-none", STEP_SECONDS) == "Failed"
    assert runs.status()["result"] == "failed"
    assert re.search(r"\b2\b", runs.status()["reason"])
    assert runs.has_result("failed")
    shown = run_block(runs.deployed, look("LoopFailed"), goes_on=True)
    assert re.search(r'thumbwheel_loop_turn_result\{.*result="failed"\} 1\.0', shown), shown
    assert "turn-of-none" in shown


@pytest.mark.long
def test_run_survives_death_of_launcher_worker_and_head(
    runs: LoopRuns,
) -> None:
    configure(runs, {})
    people = keys(runs.deployed)
    fill_bucket(runs.deployed, people)
    runs.start_run("turn-1")
    # The earlier RayJob has the same name and is deleted first.
    until(
        "its RayJob is there",
        lambda: len(ray_jobs(runs, "--selector", "thumbwheel/run=turn-1")) == 1,
    )
    uid = ray_jobs(runs)[0]["metadata"]["uid"]
    until("its head runs", lambda: bool(ray_pods(runs, HEAD)), STEP_SECONDS)
    until("the dashboard requires a token", lambda: "401" in submit_without_token(runs))
    kill_launcher(runs, uid)
    kill_workers(runs)
    kill_head(runs)
    runs.start_run("turn-2")  # follows the running first run without a new one
    until("the canary begins", lambda: at_canary(runs), TURN_SECONDS)
    assert [job["metadata"]["uid"] for job in ray_jobs(runs)] == [uid], (
        "a second request started another run"
    )
    trial = rate_while(runs.deployed, people, lambda: not runs.ended("turn-1"), TURN_SECONDS)
    assert (runs.ended("turn-1"), runs.wait_ended("turn-2", 60)) == ("Complete", "Complete")
    status = runs.status()
    assert (status["run"], status["result"]) == ("nano-1", "promoted"), json.dumps(status, indent=1)
    assert [step["state"] for step in status["steps"]] == ["done"] * len(status["steps"])
    assert "resumed with" in details(status)
    assert trial.by_version.get("nano-1", 0) > 0
    assert runs.has_result("promoted")
    assert runs.served_version() == "nano-1"


# The pod has the token in its environment, and urllib does not send it.
SUBMIT = """
import urllib.error, urllib.request
request = urllib.request.Request(
    "http://127.0.0.1:8265/api/jobs/", b'{"entrypoint": "id"}', {"Content-Type": "application/json"}
)
try:
    print(urllib.request.urlopen(request, timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:  # not started yet
    print(error)
"""


def submit_without_token(runs: LoopRuns) -> str:
    """Submit a job to the dashboard of the head (finding S-12); return the status."""
    (head,) = ray_pods(runs, HEAD)
    where = ("exec", head, "--container", "ray-head", "--", "python3", "-c")
    return runs.deployed.kubectl(*where, SUBMIT).strip()


def kill_launcher(runs: LoopRuns, uid: str) -> None:
    """Kill the launcher; its replacement follows the existing RayJob."""
    kill(runs, *(pod["metadata"]["name"] for pod in runs.pods_of("turn-1")))
    until(
        "another launcher follows it",
        lambda: NAME in runs.log("turn-1") and bool(runs.pods_of("turn-1")),
    )
    assert [job["metadata"]["uid"] for job in ray_jobs(runs)] == [uid]


def kill_workers(runs: LoopRuns) -> None:
    """Kill the workers; Ray Train restarts the group from its checkpoint."""
    until("it trains", lambda: runs.status().get("step") in TRAINING, TURN_SECONDS)
    before = ray_pods(runs, WORKER)
    kill(runs, *before)
    until(
        "another worker runs",
        lambda: bool(ray_pods(runs, WORKER).items() - before.items()),
        STEP_SECONDS,
    )


def kill_head(runs: LoopRuns) -> None:
    """Kill the head and with its pod the Ray cluster; KubeRay creates another, which resumes."""
    # On a busy machine the stages, which take seconds, may have ended before this request.
    until("it goes on", lambda: runs.status().get("step") in (*TRAINING, *LATER), STEP_SECONDS)
    assert not runs.ended("turn-1"), runs.status()
    before = ray_pods(runs, HEAD)
    began = time.monotonic()
    kill(runs, *before)
    until(
        "another head runs",
        lambda: bool(ray_pods(runs, HEAD).items() - before.items()),
        STEP_SECONDS,
    )
    print(f"\nanother head after {time.monotonic() - began:.0f} s")


def at_canary(runs: LoopRuns) -> bool:
    try:
        return runs.status().get("step") == "canary" or bool(runs.ended("turn-1"))
    except ClusterError:  # the API server is busy
        return False
