"""A turn as one span: ids and reasons, calls as children, and no user text."""

import logging
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import UnavailableError
from services.chassis.identity import NO_CALL, Caller, bind_call
from services.chassis.telemetry import LineFormatter, trace_headers, trace_id
from services.contracts.chat import FinishReason
from services.gateway.turns.request import TurnRequest, typed_message
from services.gateway.turns.turn import Turn, traced
from services.gateway.turns.turns import SingleReplica


class Traces:
    """A tracer with its single ended span."""

    def __init__(self) -> None:
        self._exporter, self._provider = InMemorySpanExporter(), TracerProvider()
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self._provider.get_tracer("tests")

    @property
    def only(self) -> ReadableSpan:
        (span,) = self._exporter.get_finished_spans()
        return span

    def close(self) -> None:
        self._provider.shutdown()


@pytest.fixture
def traces() -> Iterator[Traces]:
    traces = Traces()
    yield traces
    traces.close()


@pytest.fixture(autouse=True)
def outside_of_any_call() -> None:
    bind_call(NO_CALL)


def turn() -> Turn:
    question = TurnRequest(typed_message("a very particular question"))
    return Turn(Caller("acme", "ada"), question, lambda _turn: None, SingleReplica())


async def answer(turn: Turn) -> None:
    turn.begin("m-1")
    started = chat_pb2.Started(
        conversation_id="c-1", user_message_id="u-1", model_version="v1", arm="candidate"
    )
    turn.publish(chat_pb2.ChatEvent(started=started))
    text = chat_pb2.TextDelta(text="a very particular answer")
    turn.publish(chat_pb2.ChatEvent(text_delta=text))
    turn.complete(FinishReason.STOP)


async def test_span_has_message_version_arm_and_reason_without_text(
    traces: Traces,
) -> None:
    await traced(answer, traces.tracer)(turn())
    assert dict(traces.only.attributes or {}) == {
        "thumbwheel.message_id": "m-1",
        "thumbwheel.version": "v1",
        "thumbwheel.arm": "candidate",
        "thumbwheel.reason": "stop",
    }
    assert "particular" not in traces.only.to_json()


async def test_calls_of_the_turn_are_children_of_its_span(traces: Traces) -> None:
    sent = []

    async def call_a_service(turn: Turn) -> None:
        sent.append(trace_headers()["traceparent"])
        await answer(turn)

    await traced(call_a_service, traces.tracer)(turn())
    context = traces.only.get_span_context()
    assert context
    (traceparent,) = sent
    assert traceparent.startswith(f"00-{context.trace_id:032x}-{context.span_id:016x}-")


async def test_turn_failed_before_its_first_event_reports_the_reason(traces: Traces) -> None:
    async def fail(turn: Turn) -> None:
        raise UnavailableError("no server", reason="NO_VERSION")

    with pytest.raises(UnavailableError):
        await traced(fail, traces.tracer)(turn())
    assert dict(traces.only.attributes or {}) == {
        "thumbwheel.message_id": "",
        "thumbwheel.reason": "NO_VERSION",
    }


async def test_log_lines_have_the_trace_id_only_inside_a_traced_call(
    traces: Traces, caplog: pytest.LogCaptureFixture
) -> None:
    lines = LineFormatter("gateway", as_json=False)
    assert trace_id() == ""
    assert "trace_id" not in lines.format(
        logging.makeLogRecord({"msg": "serving", "levelname": "INFO"})
    )
    with caplog.at_level(logging.INFO, "services.gateway.turns.turn"):
        await traced(answer, traces.tracer)(turn())
    (record,) = caplog.records
    line = lines.format(record)
    assert "turn ended  message_id=m-1 reason=stop version=v1 arm=candidate" in line
    context = traces.only.get_span_context()
    assert context
    assert f"trace_id={context.trace_id:032x}" in line
