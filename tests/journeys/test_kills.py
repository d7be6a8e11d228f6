"""Services are killed with SIGKILL at critical moments.

No acknowledged data is lost or duplicated, and users get clear errors.
"""

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq
import pytest

from infra.run.embedded.layout import Layout
from infra.simulate.users.bounds import Counts
from infra.simulate.users.client import open_client
from infra.simulate.users.demo import Demonstration
from infra.simulate.users.settings import PLANS, Control, Settings
from infra.simulate.users.system import Rows, System
from tests.journeys.client import Client, finish_of, text_of
from tests.journeys.stack import WITHOUT_QUOTAS, Stack, running_stack


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run a system for the tests of this module only, because they count all rows."""
    with running_stack(tmp_path_factory.mktemp("state"), options=WITHOUT_QUOTAS) as running:
        yield running


def rows(stack: Stack, stream: str) -> list[dict[str, Any]]:
    return stack.rows(stream)


def wait_until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_killing_services_one_by_one_loses_no_acknowledged_data(own_stack: Stack) -> None:
    stack, ada = own_stack, Client(own_stack.http, own_stack.owner_key)
    answer = ada.ask("hello")[0]["messageId"]

    # The feedback service dies directly after an acknowledgement, with the event in its spool.
    acked = [ada.thumb(answer, up) for up in (True, False, True)]
    stack.kill("feedback")
    stack.wait_for_line("feedback ", "SIGKILL")
    wait_until(lambda: {row["event_id"] for row in rows(stack, "feedback")} >= set(acked))
    stored = [row["event_id"] for row in rows(stack, "feedback")]
    assert sorted(stored) == sorted(acked), "each event once"

    # The session service dies during an answer. The model server is frozen to fix the moment.
    predictor = stack.pid_of("predictor")
    os.kill(predictor, signal.SIGSTOP)
    events: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: events.extend(ada.ask("how are you")))
    reader.start()
    time.sleep(1)
    stack.kill("session")
    os.kill(predictor, signal.SIGCONT)
    reader.join(60)
    assert finish_of(events) == "FINISH_REASON_STOP"
    stored_text = ada.conversation(events[0]["started"]["conversationId"])[-1]["text"]
    assert stored_text == text_of(events), (
        "the supervisor brought session back, and the answer was stored"
    )

    # The model server dies, is reported, and serves the version again without help.
    stack.kill("predictor")
    stack.wait_for_line("predictor ", "SIGKILL")
    wait_until(lambda: _answers(ada))

    # Each turn is in the log exactly once.
    asked = {answer, events[0]["messageId"], ada.ask("hello")[0]["messageId"]}
    wait_until(lambda: asked <= {row["message_id"] for row in rows(stack, "turns")})
    turns = [row["event_id"] for row in rows(stack, "turns")]
    assert len(turns) == len(set(turns))


def _answers(client: Client) -> bool:
    try:
        return finish_of(client.ask("hello")) == "FINISH_REASON_STOP"
    except (AssertionError, OSError):
        return False


async def simulate_users(stack: Stack, thumbs: int) -> Counts:
    """Run simulated users and wait until the sink has committed all their events."""
    nano = PLANS["nano"]
    plan = type(nano)(
        **{**vars(nano), "thumbs": thumbs, "people": 8, "concurrency": 4, "seconds": 120}
    )
    settings = Settings(
        "nano", plan, stack.state, 0, 0, seed=5, keep=False, fresh=False, control=Control()
    )
    system = System(Layout(stack.state, stack.ports))
    before = await system.committed()
    async with open_client(system.gateway) as client:
        counts = await Demonstration(settings, system, client).fill()
    await system.wait_committed(Rows(before.feedback + counts.events, before.turns + counts.turns))
    return counts


@dataclass(frozen=True)
class SnapshotReport:
    """Figures of a snapshot's report, with the event ids of its feedback rows."""

    judged: int
    dropped: Counter[str]
    by_version: Counter[str]
    event_ids: list[str]


def report_of_snapshot(stack: Stack) -> SnapshotReport:
    """Return the figures of a new snapshot of the running system."""
    report = json.loads((stack.take_snapshot() / "manifest.json").read_text())["report"]
    rows = [
        row
        for segment in report["segments"]["feedback"]
        for row in pq.read_table(stack.state / "objects" / segment["object"]).to_pylist()
    ]
    judged = report["thumbs_up"] + report["thumbs_down"] + report["corrections"]
    return SnapshotReport(
        judged,
        Counter(report["dropped"]),
        Counter(report["by_version"]),
        [row["event_id"] for row in rows],
    )


def test_every_acknowledged_thumb_is_in_the_snapshot_once(own_stack: Stack) -> None:
    before = report_of_snapshot(own_stack)
    counts = asyncio.run(simulate_users(own_stack, thumbs=50))
    assert counts.thumbs == 50
    after = report_of_snapshot(own_stack)
    dropped = after.dropped - before.dropped
    # A rated answer that reached the token limit is excluded from training.
    assert set(dropped) <= {"answer_incomplete"}
    assert after.judged - before.judged + dropped.total() == counts.events
    # An answer by the guardrail has no version.
    assert (after.by_version - before.by_version).keys() == counts.by_version.keys() - {""}
    assert (
        len(after.event_ids) == len(set(after.event_ids)) == len(before.event_ids) + counts.events
    )


def test_missing_model_server_is_reported_at_once(stack: Stack) -> None:
    """Uses the shared system, which is restored before the end of the test."""
    ada = Client(stack.http, stack.owner_key)
    os.kill(stack.pid_of("predictor"), signal.SIGKILL)
    status, body = ada.call(
        "POST",
        "/v1/chat/completions",
        {"model": "thumbwheel", "messages": [{"role": "user", "content": "hi"}]},
    )
    if status != 200:  # unless already back
        assert status == 503
        assert body["error"]["code"].startswith("model_")
    wait_until(lambda: _answers(ada))
