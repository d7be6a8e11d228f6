"""A release with `serving.mode: external`: chat, thumb, an endpoint that ends, refused training."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from infra.machine.cluster.errors import ClusterError
from tests.infra.run.deploy import external_endpoint
from tests.infra.run.deploy.clusters import RELEASES
from tests.infra.run.deploy.deployed import SERVICES, SMALL, STORES, Deployed, rows, until
from tests.infra.run.deploy.external_endpoint import EGRESS, KEY, MODEL, URL, WORDS
from tests.infra.run.deploy.models import promote
from tests.journeys.client import Client, text_of
from tests.support.errors import refused

pytestmark = [*RELEASES, pytest.mark.long]

EXTERNAL = {
    "serving": {"mode": "external", "external": {"contextTokens": 8192, "replyTokens": 512}},
    "externalModels": {
        "existingSecret": "endpoint-keys",
        "models": {
            "main": {
                "url": URL,
                "model": MODEL,
                "developer": "Example",
                "licence": "proprietary",
                "secretKey": "main",
            }
        },
        "egress": EGRESS,
    },
}
VERSION = "external.main"


@pytest.fixture(scope="module")
def external(deployed: Deployed) -> Iterator[Deployed]:
    """Release with the values of an external model, before its endpoint and its key exist."""
    other = replace(deployed, name="thumbwheel-external", namespace="external")
    other.create_namespace()
    try:
        other.install(SMALL, EXTERNAL)
        other.reopen()
        yield other
    finally:
        external_endpoint.remove_endpoint(other)
        other.remove()


@pytest.fixture(scope="module")
def user(external: Deployed) -> Client:
    return external.person(external.keys("ada")[0])


def failure(user: Client) -> tuple[int, str]:
    """Ask a question that fails; return status and code."""
    body = {"model": "thumbwheel", "messages": [{"role": "user", "content": "hello"}]}
    status, answer = user.call("POST", "/v1/chat/completions", body)
    return status, str(answer.get("error", {}).get("code"))


def test_release_is_ready_without_model_server_and_key(external: Deployed, user: Client) -> None:
    pods = external.objects("pods")
    there = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods}
    assert there == {*SERVICES, *STORES}
    claims = {one["metadata"]["name"] for one in external.objects("pvc")}
    assert f"{external.name}-models" not in claims
    assert failure(user) == (503, "external_model_key_unreadable")


def test_user_is_answered_and_rates(external: Deployed, user: Client) -> None:
    external_endpoint.start_endpoint(external)
    metadata = {"name": "endpoint-keys"}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "stringData": {"main": KEY},
    }
    external.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(secret))
    # kubelet updates mounted secrets within about a minute.
    until("the key is used", lambda: failure(user)[0] == 200)
    turn = user.ask("hello")
    assert text_of(turn) == "".join(WORDS)
    assert turn[0]["started"]["modelVersion"] == VERSION
    before = rows(external.audit(), "feedback")
    assert user.thumb(turn[0]["messageId"], True)
    until("the thumb is stored", lambda: rows(external.audit(), "feedback") == before + 1)
    external.helm("test", external.name, "--timeout", "120s")


def test_commands_of_training_are_refused(external: Deployed) -> None:
    with refused(ClusterError, field="helm", reason="FAILED") as caught:
        external.install(SMALL, EXTERNAL, {"training": {"enabled": True}})
    assert "training.enabled: serving.mode external" in str(caught.value)
    with refused(ClusterError) as caught:
        promote(external, "nano-1")
    assert "FAILED_PRECONDITION" in str(caught.value)
    for words in (("halt",), ("restore", "--version", "nano-1")):
        with refused(ClusterError) as caught:
            external.python("generator", "-m", "services.generator", *words, "--reason", "a test")
        assert "an external model" in str(caught.value)


def test_lost_endpoint_is_named(external: Deployed, user: Client) -> None:
    external_endpoint.remove_endpoint(external)
    assert failure(user) == (503, "external_model_unreachable")
