"""Traces of one turn and its thumb through all services. No span contains user text."""

import re
import time

import grpc
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc

from tests.journeys.client import Client
from tests.journeys.otlp import ReceivedSpan, Receiver
from tests.journeys.stack import Stack

TRACE_ID = "5e0c63257de34c92bf9efcd03927272e"
QUESTION = "wat is teh captial of Liechtenstein"


def wait_for(receiver: Receiver, *wanted: tuple[str, str]) -> list[ReceivedSpan]:
    """Return the spans of the trace once these names from these services have arrived."""
    end = time.monotonic() + 30
    while True:
        spans = receiver.of_trace(TRACE_ID)
        missing = set(wanted) - {(span.service, span.name.rsplit("/", 1)[-1]) for span in spans}
        if not missing:
            return spans
        assert time.monotonic() < end, (missing, [(span.service, span.name) for span in spans])
        time.sleep(0.1)


def trace_id_over_grpc(stack: Stack, user: Client) -> str:
    """Return the trace id reported by a successful call."""
    metadata = (("authorization", f"Bearer {user.key}"), ("traceparent", user.traceparent))
    with grpc.insecure_channel(stack.grpc) as channel:
        conversations = chat_pb2_grpc.ChatServiceStub(channel).ListConversations
        _, call = conversations.with_call(
            chat_pb2.ListConversationsRequest(), timeout=30, metadata=metadata
        )
    return str(dict(call.trailing_metadata())["x-trace-id"])


def test_turn_and_thumb_have_traces_through_all_services(stack: Stack, receiver: Receiver) -> None:
    yusuf = Client(stack.http, stack.make_keys("yusuf")[0], f"00-{TRACE_ID}-00f067aa0ba902b7-01")
    message_id = yusuf.ask(QUESTION)[0]["messageId"]
    yusuf.thumb(message_id, True)
    with yusuf._open("GET", "/api/account", None) as response:
        assert response.headers["x-trace-id"] == TRACE_ID
    assert trace_id_over_grpc(stack, yusuf) == TRACE_ID
    spans = wait_for(
        receiver,
        ("thumbwheel-gateway", "turn"),
        ("thumbwheel-enhancer", "Enhance"),
        ("thumbwheel-guardrail", "CheckInput"),
        ("thumbwheel-guardrail", "CheckOutput"),
        ("thumbwheel-session", "BeginTurn"),
        ("thumbwheel-session", "FinishTurn"),
        ("thumbwheel-generator", "Generate"),
        ("thumbwheel-feedback", "RecordFeedback"),
    )
    (turn,) = [span for span in spans if span.name == "turn"]
    assert turn.attributes["thumbwheel.message_id"] == message_id
    assert turn.attributes["thumbwheel.reason"] in ("stop", "length")
    generate = next(span for span in spans if span.name.endswith("/Generate"))
    assert generate.parent_id == turn.span_id
    line = stack.wait_for_line(message_id)
    assert "turn ended" in line
    assert f"trace_id={TRACE_ID}" in line
    written = "".join(span.everything for span in receiver.spans)
    # A name with letters outside hexadecimal digits, distinct from all ids.
    for word in (*re.findall(r"\w{6,}", QUESTION), "yusuf"):
        assert word not in written, word
