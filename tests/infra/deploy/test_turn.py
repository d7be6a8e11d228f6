"""One turn of the loop as a Job on a real cluster: thumbs go in at the door, and at the end a version that learned from them answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from infra.cluster import lifecycle
from infra.cluster.errors import ClusterError
from infra.cluster.installation import find_installed
from infra.cluster.layout import Layout
from infra.deploy import release
from infra.deploy.inside import Inside
from tests.infra.deploy.raters import committed, keys, people_rate, people_rate_while
from tests.journeys.client import Client, text_of

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3600)]
NAMESPACE = ["--namespace", release.NAMESPACE]
CRON_JOB, JOB, SECOND = f"{release.NAME}-training", "turn-1", "turn-2"
TRAINING = ("sft", "reward_model", "judge", "health", "ppo")
# As for a machine that others use too.
THUMBS, FILL_SECONDS, COMMIT_SECONDS, STEP_SECONDS, TURN_SECONDS = 400, 900.0, 180.0, 300.0, 1500.0


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """One cluster with the chart on it, turns by the clock included."""
    if os.environ.get("CLUSTER") == "skip":
        pytest.skip("CLUSTER=skip: a turn is not tried on a real cluster")
    layout = Layout(tmp_path_factory.mktemp("turn") / "cluster")
    command = [sys.executable, "-m", "infra.deploy", "--state", str(layout.state), "--port", "0", "--grpc-port", "0"]
    try:
        subprocess.run([*command, "--training", "local"], check=True, timeout=900)
        yield Inside(layout, find_installed())
    finally:
        lifecycle.down(layout)


def client(inside: Inside) -> Client:
    """At the door, out here."""
    port = (inside.layout.state / "door-80.port").read_text()
    return Client(f"http://127.0.0.1:{port}", (inside.layout.state / "owner.key").read_text())


def shown(inside: Inside) -> Any:
    """The loop's status, as the page gets it."""
    status, answer = client(inside).call("GET", "/api/loop")
    assert status == 200, answer
    return answer


def metrics(inside: Inside) -> str:
    """The gateway's own."""
    code = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:51051/metrics').read().decode())"
    where = ["kubectl", *NAMESPACE, "exec", f"deployment/{release.NAME}-gateway", "--"]
    return inside.run(*where, "python3", "-c", code)


def begin(inside: Inside, name: str, *, impatient: bool = False) -> None:
    """As a person does it, without waiting for the night; one who does not wait for another turn either."""
    words = ["create", "job", f"--from=cronjob/{CRON_JOB}", name, "--dry-run=client", "-o", "json"]
    made = json.loads(inside.run("kubectl", *NAMESPACE, *words))
    (container,) = made["spec"]["template"]["spec"]["containers"]
    container["args"] += ["--patience", "1s"] if impatient else []
    inside.run("kubectl", *NAMESPACE, "create", "-f", "-", said=json.dumps(made))


def job(inside: Inside, name: str) -> Any:
    return json.loads(inside.run("kubectl", *NAMESPACE, "get", "job", name, "-o", "json"))


def ended(inside: Inside, name: str) -> str:
    """Complete, Failed or nothing yet."""
    conditions = job(inside, name)["status"].get("conditions", ())
    return next((c["type"] for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), "")


def log(inside: Inside, name: str) -> str:
    try:
        return inside.run("kubectl", *NAMESPACE, "logs", f"job/{name}", "--tail=40")
    except ClusterError as error:
        return str(error)


def wait_ended(inside: Inside, name: str, seconds: float) -> str:
    end = time.monotonic() + seconds
    while not (found := ended(inside, name)):
        assert time.monotonic() < end, log(inside, name)
        time.sleep(2)
    return found


def pods_of(inside: Inside, name: str) -> list[Any]:
    said = inside.run("kubectl", *NAMESPACE, "get", "pods", "--selector", f"job-name={name}", "-o", "json")
    found: list[Any] = json.loads(said)["items"]
    return found


def kill_its_pod_while_it_trains(inside: Inside) -> None:
    """Without a word, and wait until the next one has taken the turn up."""
    wait_until(lambda: shown(inside).get("step") in TRAINING, STEP_SECONDS)
    (pod,) = pods_of(inside, JOB)
    name = pod["metadata"]["name"]
    inside.run("kubectl", *NAMESPACE, "delete", "pod", name, "--grace-period=0", "--force")
    wait_until(
        lambda: any(
            each["metadata"]["name"] != name and each["status"]["phase"] == "Running" and "resumed" in log(inside, JOB)
            for each in pods_of(inside, JOB)
        ),
        STEP_SECONDS,
    )


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(1)


def wait_committed(inside: Inside, rows: int) -> None:
    """What was acknowledged is on its way through Kafka."""
    end = time.monotonic() + COMMIT_SECONDS
    while (found := committed(inside)) < rows:
        assert time.monotonic() < end, f"{found} of {rows} events are in the bucket"
        time.sleep(2)


def answering_version(inside: Inside) -> str:
    events = client(inside).ask("Hello, how are you?")
    assert text_of(events)
    return str(next(event["started"] for event in events if "started" in event)["modelVersion"])


def test_too_little_feedback_is_said_and_is_no_failure(inside: Inside) -> None:
    begin(inside, "turn-0")
    assert wait_ended(inside, "turn-0", 180) == "Complete"
    assert shown(inside)["result"] == "not_enough_feedback"
    assert "200 needed" in shown(inside)["reason"]


def test_thumbs_become_a_version_that_is_tried_promoted_and_answers(inside: Inside) -> None:
    people = keys(inside)
    given = people_rate(inside, people, THUMBS, FILL_SECONDS)
    assert given.thumbs == THUMBS
    wait_committed(inside, given.events)
    begin(inside, JOB)
    kill_its_pod_while_it_trains(inside)
    begin(inside, SECOND, impatient=True)
    assert wait_ended(inside, SECOND, STEP_SECONDS) == "Failed"
    assert "a loop runs already: process 1, recipe nano, since 20" in log(inside, SECOND)
    assert len(pods_of(inside, SECOND)) == 1, "it was tried again"
    # Nobody's thumbs are needed before.
    wait_until(lambda: shown(inside).get("step") == "canary" or bool(ended(inside, JOB)), TURN_SECONDS)
    trial = people_rate_while(inside, people, lambda: not ended(inside, JOB), TURN_SECONDS)
    assert wait_ended(inside, JOB, 60) == "Complete", log(inside, JOB)
    assert "resumed with" in log(inside, JOB)
    status = shown(inside)
    assert (status["run"], status["result"]) == ("nano-1", "promoted"), status
    assert trial.by_version.get("nano-1", 0) > 0
    assert [step["state"] for step in status["steps"]] == ["done"] * len(status["steps"])
    assert 'thumbwheel_loop_turn_result{recipe="nano",result="promoted"} 1.0' in metrics(inside)
    assert answering_version(inside) == "nano-1"
