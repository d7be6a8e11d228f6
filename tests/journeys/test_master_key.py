"""Rotation of the master key with the operator's command, under traffic of users over HTTP."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.sealing import MasterKey
from services.feedback.store import tables
from services.feedback.store.database import open_database
from tests.journeys.client import Client, finish_of
from tests.journeys.stack import ROOT, WITHOUT_QUOTAS, running_stack

PREVIOUS, NEW = "5e" * 32, "7c" * 32
# Several pages of the command.
STORED_KEYS = {f"{number:064x}": "acme" for number in range(2_500)}
USERS = 4


def use(client: Client) -> None:
    """Use every kind of call that reads or writes data keys, and the page's lists."""
    events = client.ask("hello", sampling={"maxTokens": 4})
    assert finish_of(events) in ("FINISH_REASON_STOP", "FINISH_REASON_LENGTH")
    started = events[0]
    client.thumb(started["messageId"], True)
    correction = {
        "messageId": started["messageId"],
        "requestId": started["messageId"],
        "correction": {"text": "A better answer."},
    }
    conversation = started["started"]["conversationId"]
    for method, path, body in (
        ("POST", "/api/feedback", correction),
        ("GET", "/api/conversations", None),
        ("GET", f"/api/conversations/{conversation}", None),
        ("GET", "/api/consent", None),
        ("PUT", "/api/consent", {"training": True}),
        # The next round creates another data key.
        ("POST", "/api/erasure", None),
    ):
        status, answer = client.call(method, path, body)
        assert status == 200, (method, path, answer)


def principals(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(select(tables.data_keys.c.principal)).scalars())


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_call_fails_while_the_master_key_is_rotated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "feedback").mkdir()
    engine = open_database(f"sqlite:///{tmp_path}/feedback/ledger.db")
    previous = DataKeys(engine, MasterKey(PREVIOUS))
    fingerprint_key = previous.fingerprint_key()
    stored = previous.get_or_create(STORED_KEYS)
    (tmp_path / "master.key").write_text(NEW)
    monkeypatch.setenv("TW_FEEDBACK_ACCEPTED_MASTER_KEYS", PREVIOUS)
    stop, rounds = threading.Event(), [0] * USERS
    with (
        running_stack(tmp_path, options=WITHOUT_QUOTAS) as stack,
        ThreadPoolExecutor(USERS) as pool,
    ):
        clients = [Client(stack.http, key) for key in stack.make_keys("ada", count=USERS)]

        def serve(number: int) -> None:
            while not stop.is_set():
                use(clients[number])
                rounds[number] += 1

        def one_more_round() -> None:
            before = list(rounds)
            while not all(now > then for now, then in zip(rounds, before, strict=True)):
                # An error ends its user's calls, and the test.
                for failed in (each for each in serving if each.done()):
                    failed.result()
                stop.wait(0.1)

        serving = [pool.submit(serve, number) for number in range(USERS)]
        try:
            one_more_round()
            first = rotate(tmp_path)
            # Every key that the service created meanwhile is under the new master key.
            second = rotate(tmp_path)
            one_more_round()
        finally:
            stop.set()
        for each in serving:
            each.result()
    assert f"{len(STORED_KEYS) + 1:,} wrapped again; 0 of " in first
    assert "\n0 wrapped again; 0 of " in second
    alone = DataKeys(engine, MasterKey(NEW))
    found = principals(engine)
    assert len(found) > len(STORED_KEYS)
    assert alone.existing(found).keys() == found
    assert alone.existing(STORED_KEYS) == stored
    assert alone.fingerprint_key() == fingerprint_key
    engine.dispose()


def rotate(state: Path) -> str:
    """Run `thumbwheel keys master` and return its output; the environment has both keys."""
    command = [sys.executable, "-m", "thumbwheel_cli", "keys", "master", "--state", str(state)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
