"""Two releases in one cluster: alerts of their own, a restore from the schedule, rotations.

The second release has one database for all services, by user and password, and a bucket by keys.
"""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from infra.machine.servers.seaweedfs import ACCESS_KEY
from tests.infra.run.deploy import prometheus
from tests.infra.run.deploy.clusters import RELEASES
from tests.infra.run.deploy.deployed import SERVICES, Deployed, ask, rate, rows, until
from tests.infra.run.deploy.own_stores import ROLE
from tests.infra.run.deploy.second_release import SecondRelease, second_release
from tests.infra.run.deploy.steady_chats import steady_chats
from tests.journeys.client import Client
from tests.journeys.prometheus import PrometheusServer

pytestmark = [*RELEASES, pytest.mark.long]

EVERY_SECONDS, USERS = 0.1, 10
STOPPED = "enhancer"
QUICK_ALERT = {"monitoring": {"rules": {"thresholds": {"ServiceDown": {"for": "10s"}}}}}
# Lists the bucket with the keys of standard input, and prints the error of the store.
REFUSAL = """
import sys
from minio import Minio
from minio.error import S3Error
endpoint, access, secret, bucket = sys.stdin.read().split()
try:
    print(len(list(Minio(endpoint, access, secret, secure=False).list_objects(bucket))))
except S3Error as error:
    print(error.code)
"""


@pytest.fixture(scope="module")
def second(deployed: Deployed) -> Iterator[SecondRelease]:
    with second_release(deployed) as found:
        yield found


def users_of(deployed: Deployed) -> list[Client]:
    return [deployed.person(key) for key in deployed.keys("ada", count=USERS)]


def paging(asked: PrometheusServer) -> set[tuple[str, str, str, str]]:
    """Return name, namespace, release and job of the alerts that page now."""
    found = asked.query('ALERTS{alertstate="firing", severity="page"}')
    names = ("alertname", "namespace", "release", "job")
    return {tuple(one["metric"].get(name, "") for name in names) for one in found}


def wait_for_pages(asked: PrometheusServer, *expected: tuple[str, str, str, str]) -> None:
    """Wait until exactly these alerts page."""
    with suppress(AssertionError):
        until("the alerts are as expected", lambda: paging(asked) == {*expected})
    assert paging(asked) == {*expected}


def scraped(asked: PrometheusServer) -> int:
    """Return the number of pods that answer scrapes."""
    return sum(int(one["value"][1]) for one in asked.query("sum(up)"))


def test_only_the_release_without_a_service_has_an_alert(
    deployed: Deployed, second: SecondRelease
) -> None:
    other = second.deployed
    both = (deployed, other)
    users = [each.person(each.keys("ada")[0]) for each in both]
    monitored = (prometheus.MONITORED, QUICK_ALERT)
    with prometheus.monitored(deployed, QUICK_ALERT):
        try:
            second.install(*monitored)
            for each in both:
                each.settle()
            asked = prometheus.started(*both)
            pods = sum(len(each.pods(*SERVICES, "predictor")) for each in both)
            until("all pods are scraped", lambda: scraped(asked) == pods)
            wait_for_pages(asked)
            second.install(*monitored, {"services": {STOPPED: {"replicas": 0}}})
            other.settle()
            prometheus.discover(*both)
            down = ("ServiceDown", other.namespace, other.name, STOPPED)
            wait_for_pages(asked, down)
            assert all(ask(user, "Hello!")[0] for user in users)
            assert paging(asked) == {down}
            second.install(*monitored)
            prometheus.discover(*both)
            wait_for_pages(asked)
        finally:
            second.install()


def test_lost_databases_come_back_from_a_backup_of_the_schedule(
    second: SecondRelease, tmp_path: Path, record_property: Any
) -> None:
    other = second.deployed
    ada = other.person(other.keys("ada")[0])
    kept = ada.ask("Hello!")
    conversation = kept[0]["started"]["conversationId"]
    stored = rows(other.audit(), "feedback")
    rate(ada, kept[0]["messageId"])
    before = ada.conversation(conversation)
    until("the thumb is stored", lambda: rows(other.audit(), "feedback") == stored + 1)
    second.run("back up the databases now", tmp_path)
    rate(ada, ask(ada, "A question after the backup")[1])
    lost = time.monotonic()
    second.stores.lose_postgres()
    second.stores.start()
    record_property("empty_server_seconds", round(time.monotonic() - lost))
    second.run("restore the databases", tmp_path)
    record_property("restored_seconds", round(time.monotonic() - lost))
    assert ask(ada, "Are you back?")[0]
    record_property("first_answer_seconds", round(time.monotonic() - lost))
    # A gateway shows conversations without thumbs until it has found feedback again.
    until("everything is back", lambda: ada.conversation(conversation) == before)
    record_property("all_back_seconds", round(time.monotonic() - lost))
    assert before[-1]["thumbUp"]
    # The later thumb is in Kafka and is stored from the offsets of the backup.
    until("the later thumb is stored", lambda: rows(other.audit(), "feedback") == stored + 2)


def test_rotation_of_the_database_role_fails_no_chat(
    second: SecondRelease, tmp_path: Path, record_property: Any
) -> None:
    other = second.deployed
    before = other.pods(*SERVICES)
    with steady_chats(users_of(other), EVERY_SECONDS) as chats:
        chats.wait_for_answers()
        second.run("rotate the role of the databases", tmp_path)
        other.settle()
        chats.wait_for_answers()
    record_property("answers", chats.answers)
    record_property("longest", round(chats.longest, 1))
    assert chats.failed == []
    moved = other.pods(*SERVICES).items() - before.items()
    assert {name.split("-")[2] for name, _ in moved} >= {"gateway", "session", "generator"}
    sessions = "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = 'chat';"
    assert second.stores.sql(sessions) == f"{ROLE}_2"
    assert second.stores.sql(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{ROLE}';") == "f"
    second.stores.sql(f"ALTER ROLE {ROLE} LOGIN;")
    second.install()


def test_rotation_of_the_key_of_the_bucket_fails_no_chat(
    second: SecondRelease, record_property: Any
) -> None:
    other, stores = second.deployed, second.stores
    keys = {"chat-2": stores.secret[::-1]}
    metadata = {"name": "bucket-2"}
    data = {"access-key": "chat-2", "secret-key": keys["chat-2"]}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}
    ada = other.person(other.keys("ada")[0])
    with steady_chats(users_of(other), EVERY_SECONDS) as chats:
        chats.wait_for_answers()
        stores.set_s3_keys({ACCESS_KEY: stores.secret, **keys})
        other.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(secret))
        second.install(stores.values(bucket_secret="bucket-2"))
        other.settle()
        stores.set_s3_keys(keys)
        chats.wait_for_answers()
    record_property("answers", chats.answers)
    record_property("longest", round(chats.longest, 1))
    assert chats.failed == []
    first = f"{stores.s3} {ACCESS_KEY} {stores.secret} thumbwheel"
    assert other.python("feedback", "-c", REFUSAL, stdin=first).strip() == "InvalidAccessKeyId"
    thumbs = rows(other.audit(), "feedback")
    rate(ada, ask(ada, "Is the bucket writable?")[1])
    until("the thumb is stored", lambda: rows(other.audit(), "feedback") == thumbs + 1)
    stores.set_s3_keys({ACCESS_KEY: stores.secret, **keys})
    second.install()
