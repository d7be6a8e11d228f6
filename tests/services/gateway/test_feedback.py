"""Feedback over gRPC: ownership, version, durability before the reply, and the current thumb."""

import hashlib
import hmac
import uuid
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.errors import from_rpc
from services.gateway.feedback import EVENT_NAMESPACE
from services.gateway.metrics import RATED_ANSWERS
from tests.services.gateway.fakes import BAD_WORD, SECRET, STABLE
from tests.services.gateway.gateway_under_test import PRINCIPAL_KEY, GatewayUnderTest


async def submit(
    gateway: GatewayUnderTest, message_id: str, request_id: str = "r1", **value: Any
) -> feedback_pb2.SubmitFeedbackResponse:
    request = feedback_pb2.SubmitFeedbackRequest(
        message_id=message_id,
        request_id=request_id,
        **(value or {"thumb": events_pb2.Thumb(up=True)}),
    )
    response = await gateway.feedback.SubmitFeedback(
        request, timeout=10, metadata=gateway.metadata()
    )
    assert isinstance(response, feedback_pb2.SubmitFeedbackResponse)
    return response


async def test_event_has_version_and_pseudonym_and_never_the_text(
    gateway: GatewayUnderTest,
) -> None:
    turn = await gateway.ask()
    response = await submit(
        gateway,
        turn[0].message_id,
        thumb=events_pb2.Thumb(up=False, reasons=["wrong"], comment="no"),
    )
    event = gateway.fakes.feedback.events[response.event_id]
    assert response.durability == feedback_pb2.DURABILITY_SPOOL
    assert (event.message_id, event.conversation_id) == (
        turn[0].message_id,
        turn[0].started.conversation_id,
    )
    assert (event.model_version, event.arm, event.tenant) == (STABLE, "stable", "acme")
    assert (
        event.principal == hmac.new(PRINCIPAL_KEY.encode(), b"acme/ada", hashlib.sha256).hexdigest()
    )
    assert event.event_id == str(uuid.uuid5(EVENT_NAMESPACE, "acme/ada/r1"))
    assert (event.thumb.up, list(event.thumb.reasons), event.thumb.comment) == (
        False,
        ["wrong"],
        "no",
    )
    assert event.accept_time.seconds > 1_700_000_000


async def test_same_request_id_is_the_same_event_and_rejects_other_content(
    gateway: GatewayUnderTest,
) -> None:
    message_id = (await gateway.ask())[0].message_id
    first = await submit(gateway, message_id)
    assert (await submit(gateway, message_id)).event_id == first.event_id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(gateway, message_id, thumb=events_pb2.Thumb(up=False))
    assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert from_rpc(caught.value, "gateway").field == "request_id"


@pytest.mark.parametrize("word", [BAD_WORD, SECRET])
async def test_correction_that_the_guard_rejects_is_not_stored(
    gateway: GatewayUnderTest, word: str
) -> None:
    """Finding S-10: corrections became training examples without a check."""
    message_id = (await gateway.ask())[0].message_id
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(gateway, message_id, correction=events_pb2.Correction(text=f"Say {word}."))
    error = from_rpc(caught.value, "gateway")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.field, error.reason) == ("correction.text", "CORRECTION_REJECTED")
    assert error.limit == "no harmful content, secrets or personal data"
    assert not gateway.fakes.feedback.events


async def test_correction_without_a_verdict_is_not_stored(gateway: GatewayUnderTest) -> None:
    """Finding S-10: the check of a correction fails closed, and thumbs need no check."""
    message_id = (await gateway.ask())[0].message_id
    gateway.fakes.guardrail.gives_verdicts = False
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(gateway, message_id, correction=events_pb2.Correction(text="Better."))
    assert from_rpc(caught.value, "gateway").reason == "GUARDRAIL_UNAVAILABLE"
    assert not gateway.fakes.feedback.events
    await submit(gateway, message_id)
    assert len(gateway.fakes.feedback.events) == 1


async def test_corrections_and_retractions_are_recorded(gateway: GatewayUnderTest) -> None:
    message_id = (await gateway.ask())[0].message_id
    correction = await submit(
        gateway, message_id, "r1", correction=events_pb2.Correction(text="Better.")
    )
    retraction = await submit(
        gateway, message_id, "r2", retraction=events_pb2.Retraction(kind="correction")
    )
    assert gateway.fakes.feedback.events[correction.event_id].correction.text == "Better."
    assert gateway.fakes.feedback.events[retraction.event_id].retraction.kind == "correction"


async def test_signal_is_recorded_and_is_no_thumb(gateway: GatewayUnderTest) -> None:
    message_id = (await gateway.ask())[0].message_id
    response = await submit(gateway, message_id, signal=events_pb2.Signal(kind="copied"))
    event = gateway.fakes.feedback.events[response.event_id]
    assert (event.signal.kind, event.model_version, event.message_id) == (
        "copied",
        STABLE,
        message_id,
    )
    assert not event.HasField("thumb")


async def test_missing_ack_is_an_error(gateway: GatewayUnderTest) -> None:
    message_id = (await gateway.ask())[0].message_id
    gateway.fakes.feedback.away = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(gateway, message_id)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gateway.fakes.feedback.events == {}


async def test_open_answer_cannot_be_rated(gateway: GatewayUnderTest) -> None:
    turn = await gateway.ask()
    gateway.fakes.session.messages[
        turn[0].message_id
    ].finish_reason = chat_pb2.FINISH_REASON_UNSPECIFIED
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await submit(gateway, turn[0].message_id)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_conversation_shows_thumbs_and_is_readable_without_them(
    gateway: GatewayUnderTest,
) -> None:
    turn = await gateway.ask()
    await submit(gateway, turn[0].message_id)
    request = chat_pb2.GetConversationRequest(conversation_id=turn[0].started.conversation_id)
    for away, broken, expected in ((False, False, [True]), (True, False, []), (False, True, [])):
        gateway.fakes.feedback.away, gateway.fakes.feedback.broken_seal = away, broken
        found = await gateway.chat.GetConversation(request, timeout=10, metadata=gateway.metadata())
        assert [
            message.thumb_up for message in found.messages if message.HasField("thumb_up")
        ] == expected
        assert len(found.messages) == 2


async def test_conversation_shows_comments_and_corrections(
    gateway: GatewayUnderTest,
) -> None:
    turn = await gateway.ask()
    thumb = events_pb2.Thumb(up=False, reasons=["wrong"], comment="no")
    await submit(gateway, turn[0].message_id, "r1", thumb=thumb)
    await submit(
        gateway, turn[0].message_id, "r2", correction=events_pb2.Correction(text="Better.")
    )
    request = chat_pb2.GetConversationRequest(conversation_id=turn[0].started.conversation_id)
    found = await gateway.chat.GetConversation(request, timeout=10, metadata=gateway.metadata())
    question, answer = found.messages
    assert (list(answer.thumb_reasons), answer.thumb_comment, answer.correction) == (
        ["wrong"],
        "no",
        "Better.",
    )
    assert (list(question.thumb_reasons), question.thumb_comment, question.correction) == (
        [],
        "",
        "",
    )


def rated() -> dict[tuple[str, str], float]:
    """Return the counts of rated answers by trait and value."""
    [metric] = RATED_ANSWERS.collect()
    return {
        (sample.labels["trait"], sample.labels["value"]): sample.value
        for sample in metric.samples
        if sample.name.endswith("_total")
    }


async def test_thumbs_are_counted_by_task_length_and_change_of_the_question(
    gateway: GatewayUnderTest,
) -> None:
    RATED_ANSWERS.clear()
    for number, text in enumerate(("hw are you", "how are you")):
        turn = await gateway.ask(text)
        await submit(
            gateway, turn[0].message_id, f"r{number}", thumb=events_pb2.Thumb(up=number == 0)
        )
    await submit(gateway, turn[0].message_id, "r9", retraction=events_pb2.Retraction(kind="thumb"))
    assert rated() == {
        ("task_unspecified", "up"): 1,
        ("task_unspecified", "down"): 1,
        ("length_short", "up"): 1,
        ("length_short", "down"): 1,
        ("question_enhanced", "up"): 1,
        ("question_as_typed", "down"): 1,
    }


async def test_a_thumb_is_counted_without_the_question_by_an_earlier_session(
    gateway: GatewayUnderTest,
) -> None:
    RATED_ANSWERS.clear()
    turn = await gateway.ask("how are you")
    gateway.fakes.session.is_earlier_release = True
    response = await submit(gateway, turn[0].message_id)
    assert response.durability == feedback_pb2.DURABILITY_SPOOL
    assert set(rated()) == {("task_unspecified", "up"), ("length_short", "up")}
