"""Backup and restore into another release with the commands of the operating page."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from infra.machine.cluster.errors import ClusterError
from tests.infra.run.deploy import page
from tests.infra.run.deploy.deployed import SMALL, Deployed, rows, until
from tests.infra.run.deploy.models import ENDLESS, install_endless
from tests.journeys.client import Client, text_of
from tests.support.errors import refused

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(900)]

COMMENT = "because it is short"
# Request to the gateway from inside its pod.
REQUEST = """
import json, sys, urllib.request
key, path, body = json.load(sys.stdin)
headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
data = body and json.dumps(body).encode()
request = urllib.request.Request("http://127.0.0.1:8080" + path, data, headers)
print(urllib.request.urlopen(request, timeout=60).read().decode())
"""
UNWRAP = """
from sqlalchemy import select
from services.chassis.settings import load_settings
from services.feedback.store import tables
from services.feedback.store.database import open_database
from services.feedback.principals.data_keys import DataKeys
from services.feedback.settings import FeedbackSettings
settings = load_settings(FeedbackSettings)
engine = open_database(settings.database_url)
with engine.connect() as connection:
    principals = list(connection.execute(select(tables.data_keys.c.principal)).scalars())
keys = DataKeys(engine, settings.master_keys()).existing(principals)
assert len(keys) == len(principals)
print(len(keys))
"""


@dataclass(frozen=True)
class Restored:
    """The restored release, with the user and the conversation of the first release."""

    deployed: Deployed
    key: str
    conversation: str
    before: str

    def call(self, path: str, body: object = None) -> dict[str, object]:
        stdin = json.dumps([self.key, path, body])
        answer: dict[str, object] = json.loads(
            self.deployed.python("gateway", "-c", REQUEST, stdin=stdin)
        )
        return answer


@pytest.fixture(scope="module")
def restored(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restored]:
    install_endless(deployed)
    ada = deployed.person(deployed.keys("ada")[0])
    conversation = chat_and_rate(ada)
    folder = tmp_path_factory.mktemp("backup")
    page.run(deployed, "back up", folder, deployed.values())
    before = deployed.audit()
    other = replace(deployed, name="thumbwheel-restored", namespace="restored")
    other.create_namespace()
    try:
        page.run(other, "restore", folder, other.values(SMALL))
        yield Restored(other, ada.key, conversation, before)
    finally:
        other.remove()


def chat_and_rate(ada: Client) -> str:
    """Create an answer, a thumb and a comment; return the conversation."""
    events = ada.ask("Hello!")
    thumb = {"up": True, "comment": COMMENT}
    body = {"messageId": events[0]["messageId"], "requestId": "backed up", "thumb": thumb}
    assert ada.call("POST", "/api/feedback", body)[0] == 200
    assert text_of(events)
    return str(events[0]["started"]["conversationId"])


def test_conversation_thumb_and_comment_are_restored(
    restored: Restored, deployed: Deployed
) -> None:
    old = deployed.person(restored.key).conversation(restored.conversation)
    new = restored.call(f"/api/conversations/{restored.conversation}")["messages"]
    assert new == old
    assert (old[-1]["thumbUp"], old[-1]["thumbComment"]) == (True, COMMENT)


def test_restored_release_serves_users(restored: Restored) -> None:
    body = {"model": "thumbwheel", "messages": [{"role": "user", "content": "And now?"}]}
    answer = restored.call("/v1/chat/completions", body)
    message = str(answer["id"]).removeprefix("chatcmpl-")
    thumb = {"messageId": message, "requestId": "restored", "thumb": {"up": False}}
    assert restored.call("/api/feedback", thumb)["eventId"]
    expected = rows(restored.before, "feedback") + 1
    until(
        "the thumb is in the bucket",
        lambda: rows(restored.deployed.audit(), "feedback") == expected,
    )
    restored.deployed.audit()


def test_data_keys_and_trained_version_are_restored(restored: Restored) -> None:
    assert int(restored.deployed.python("feedback", "-c", UNWRAP)) >= 1
    there = restored.deployed.python(
        "generator", "-c", "import os; print(*os.listdir('/models'))"
    ).split()
    assert ENDLESS in there


def test_missing_or_wrong_master_key_is_rejected(restored: Restored, tmp_path: Path) -> None:
    other = restored.deployed
    kept = {
        name: other.kubectl("get", "secret", "restored-keys", "-o", f"jsonpath={{.data.{name}}}")
        for name in KEYS
    }
    secret(other, "half", {name: kept[name] for name in KEYS if name != "master-key"})
    with refused(ClusterError, field="helm", reason="FAILED") as caught:
        other.install(SMALL, {"secrets": {"existing": "half"}})
    assert {"secrets.existing", "half", "master-key"} <= set(
        re.findall(r"[\w.-]+\w", caught.value.text)
    )
    secret(other, "wrong", {**kept, "master-key": WRONG})
    other.install(SMALL, {"secrets": {"existing": "wrong"}}, wait=False)
    until(
        "feedback says why",
        lambda: any(line.startswith("master_key: ") for line in logs(other).splitlines()),
    )
    other.install(SMALL, {"secrets": {"existing": "restored-keys"}}, wait=False)
    # A StatefulSet does not replace a pod that was never ready (kubernetes/kubernetes#67250).
    other.kubectl("delete", "pod", f"{other.name}-feedback-0")
    other.install(SMALL, {"secrets": {"existing": "restored-keys"}})
    assert restored.call("/api/conversations")


KEYS = ("principal-key", "master-key", "valkey-secret")
# 64 hexadecimal digits in base64.
WRONG = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWYwMTIzNDU2Nzg5YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZg=="


def secret(deployed: Deployed, name: str, data: dict[str, str]) -> None:
    deployed.kubectl(
        "apply",
        "-f",
        "-",
        stdin=json.dumps(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
        ),
    )


def logs(deployed: Deployed) -> str:
    """Return the log of feedback, also from its last attempt."""
    where = ["logs", f"pod/{deployed.name}-feedback-0", "--container", "feedback", "--tail", "20"]
    try:
        return deployed.kubectl(*where)
    except ClusterError:
        return ""
