"""Thumbwheel on a real cluster as `make deploy` puts it there: people chat and rate, upgrades and kills lose nothing."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from infra.cluster import lifecycle
from infra.cluster.installation import find_installed
from infra.cluster.layout import Layout
from infra.deploy import release
from infra.deploy.inside import Inside
from tests.journeys.client import Client

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]
NAMESPACE = ["--namespace", release.NAMESPACE]


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inside]:
    """One cluster with the chart on it."""
    if os.environ.get("CLUSTER") == "skip":
        pytest.skip("CLUSTER=skip: the chart is not tried on a real cluster")
    layout = Layout(tmp_path_factory.mktemp("deploy") / "cluster")
    command = [sys.executable, "-m", "infra.deploy", "--state", str(layout.state), "--port", "0", "--grpc-port", "0"]
    try:
        subprocess.run(command, check=True, timeout=600)
        yield Inside(layout, find_installed())
    finally:
        lifecycle.down(layout)


def kubectl(inside: Inside, *words: str) -> Any:
    return json.loads(inside.run("kubectl", *NAMESPACE, *words, "-o", "json"))


def person(inside: Inside) -> Client:
    """At the door, out here."""
    port = (inside.layout.state / "door-80.port").read_text()
    return Client(f"http://127.0.0.1:{port}", (inside.layout.state / "owner.key").read_text())


def chat(inside: Inside, text: str) -> tuple[str, str]:
    """The answer and its message's id."""
    body = {"model": "thumbwheel", "messages": [{"role": "user", "content": text}]}
    status, answer = person(inside).call("POST", "/v1/chat/completions", body)
    assert status == 200, answer
    return answer["choices"][0]["message"]["content"], answer["id"].removeprefix("chatcmpl-")


def thumb(inside: Inside, message_id: str) -> None:
    """As a client does it: under one request id until it is acknowledged. A replica that died leaves callers alone for seconds."""
    body = {"messageId": message_id, "requestId": str(uuid.uuid4()), "thumb": {"up": True}}
    end = time.monotonic() + 60
    while (answer := person(inside).call("POST", "/api/feedback", body))[0] != 200:
        assert answer[0] == 503, answer
        assert time.monotonic() < end, answer
        time.sleep(0.5)


def audit(inside: Inside) -> str:
    """Of feedback, from its store, its ledger and Kafka; fails if an offset is not accounted for."""
    where = ["kubectl", *NAMESPACE, "exec", f"{release.NAME}-feedback-0", "--container", "feedback", "--"]
    return inside.run(*where, "python3", "-m", "services.feedback", "audit")


def rows(report: str, stream: str) -> int:
    """In all partitions."""
    return sum(int(found) for found in re.findall(rf"^{stream} topic=.* rows=(\d+) ", report, re.MULTILINE))


def test_a_person_out_here_chats_with_the_model_in_there(inside: Inside) -> None:
    text, _ = chat(inside, "Hello, how are you?")
    assert text


def test_every_pod_runs_and_none_has_started_twice(inside: Inside) -> None:
    pods = kubectl(inside, "get", "pods", "--field-selector=status.phase!=Succeeded")["items"]
    assert len(pods) >= 11
    restarts = {
        pod["metadata"]["name"]: sum(each["restartCount"] for each in pod["status"]["containerStatuses"])
        for pod in pods
    }
    assert {name: count for name, count in restarts.items() if count} == {}


def test_installing_the_same_again_moves_no_pod(inside: Inside) -> None:
    uids = partial(lambda: {pod["metadata"]["uid"] for pod in kubectl(inside, "get", "pods")["items"]})
    before = uids()
    loaded = json.loads((inside.layout.state / "loaded-images.json").read_text())
    release.install(inside, loaded)
    assert uids() == before
    assert chat(inside, "And again?")[0]


def test_no_warning_of_the_restricted_standard_was_given(inside: Inside) -> None:
    rendered = inside.run("helm", "get", "manifest", release.NAME, *NAMESPACE)
    path = Path(inside.layout.state / "manifest.yaml")
    path.write_text(rendered)
    said = inside.run("sh", "-c", f"kubectl apply --dry-run=server {' '.join(NAMESPACE)} -f {path} 2>&1 >/dev/null")
    assert "PodSecurity" not in said


def test_thumbs_survive_the_deaths_of_the_pods_that_carry_them(inside: Inside) -> None:
    """Feedback's own, with what its spool holds, and Kafka's: every thumb is in the bucket once."""
    before = rows(audit(inside), "feedback")
    messages = [chat(inside, f"Question {number}")[1] for number in range(6)]
    thumbed = 0
    for message in messages:
        thumb(inside, message)
        thumbed += 1
        if thumbed in (2, 4):
            victim = "kafka-0" if thumbed == 2 else "feedback-0"
            inside.run(
                "kubectl", *NAMESPACE, "delete", "pod", f"{release.NAME}-{victim}", "--grace-period=0", "--force"
            )
            inside.run(
                "kubectl", *NAMESPACE, "wait", "--for=condition=Ready", f"pod/{release.NAME}-{victim}", "--timeout=180s"
            )
    end = time.monotonic() + 120
    while (found := rows(audit(inside), "feedback") - before) < thumbed:
        assert time.monotonic() < end, f"{found} of {thumbed} thumbs are in the bucket"
        time.sleep(2)
    report = audit(inside)
    assert "every offset is accounted for" in report
    assert rows(report, "feedback") - before == thumbed
