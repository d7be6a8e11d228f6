"""Services die with SIGKILL at the worst moment: nothing acknowledged is lost, nothing is twice, people are told."""

import os
import signal
import threading
import time
from typing import Any

from tests.journeys.client import Client, finish_of, text_of
from tests.journeys.stack import Stack


def rows(stack: Stack, stream: str) -> list[dict[str, Any]]:
    return stack.rows(stream)


def wait_until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_services_die_one_by_one_and_nothing_acknowledged_is_lost(own_stack: Stack) -> None:
    stack, ada = own_stack, Client(own_stack.http, own_stack.owner_key)
    answer = ada.ask("hello")[0]["messageId"]

    # The feedback service dies at once after an ack: its spool has the event.
    acked = [ada.thumb(answer, up) for up in (True, False, True)]
    stack.kill("feedback")
    stack.wait_for_line("feedback ", "SIGKILL")
    wait_until(lambda: {row["event_id"] for row in rows(stack, "feedback")} >= set(acked))
    stored = [row["event_id"] for row in rows(stack, "feedback")]
    assert sorted(stored) == sorted(acked), "each event once"

    # The session dies while an answer is being written: the model server is held, so the moment is certain.
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
    assert stored_text == text_of(events), "the supervisor brought session back, and the answer was stored"

    # The model server dies: it is said so, and the version is served again without anybody's help.
    stack.kill("predictor")
    stack.wait_for_line("predictor ", "SIGKILL")
    wait_until(lambda: _answers(ada))

    # The turns are in the log once each.
    wait_until(lambda: len({row["message_id"] for row in rows(stack, "turns")}) >= 3)
    turns = [row["event_id"] for row in rows(stack, "turns")]
    assert len(turns) == len(set(turns))


def _answers(client: Client) -> bool:
    try:
        return finish_of(client.ask("hello")) == "FINISH_REASON_STOP"
    except (AssertionError, OSError):
        return False


def test_without_the_model_server_people_are_told_at_once(stack: Stack) -> None:
    """On the system of all journeys: it is whole again before the test ends."""
    ada = Client(stack.http, stack.owner_key)
    os.kill(stack.pid_of("predictor"), signal.SIGKILL)
    status, body = ada.call(
        "POST", "/v1/chat/completions", {"model": "thumbwheel", "messages": [{"role": "user", "content": "hi"}]}
    )
    if status != 200:  # unless it was back already
        assert status == 503
        assert body["error"]["code"].startswith("model_")
    wait_until(lambda: _answers(ada))
