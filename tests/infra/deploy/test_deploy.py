"""Thumbwheel on a real cluster as `make deploy` puts it there: people chat and rate, upgrades and kills lose nothing."""

import json
import os
import subprocess
import sys
import urllib.request
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


def ask(inside: Inside, path: str, body: object | None = None) -> Any:
    """One request at the door, out here."""
    port = (inside.layout.state / "door-80.port").read_text()
    key = (inside.layout.state / "owner.key").read_text()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def chat(inside: Inside, text: str) -> str:
    body = {"model": "thumbwheel", "messages": [{"role": "user", "content": text}]}
    return str(ask(inside, "/v1/chat/completions", body)["choices"][0]["message"]["content"])


def test_a_person_out_here_chats_with_the_model_in_there(inside: Inside) -> None:
    assert chat(inside, "Hello, how are you?")


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
    assert chat(inside, "And again?")


def test_no_warning_of_the_restricted_standard_was_given(inside: Inside) -> None:
    rendered = inside.run("helm", "get", "manifest", release.NAME, *NAMESPACE)
    path = Path(inside.layout.state / "manifest.yaml")
    path.write_text(rendered)
    said = inside.run("sh", "-c", f"kubectl apply --dry-run=server {' '.join(NAMESPACE)} -f {path} 2>&1 >/dev/null")
    assert "PodSecurity" not in said
