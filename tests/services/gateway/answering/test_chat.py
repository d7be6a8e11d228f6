"""The chat path over public gRPC: streamed events, stored answers, and unavailable services."""

import asyncio
import hashlib
from pathlib import Path

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import from_rpc
from services.contracts.wire import ROLES
from tests.services.gateway.fakes import (
    BAD_WORD,
    CANDIDATE,
    FORBIDDEN,
    POLICY_VERSION,
    SECRET,
    STABLE,
)
from tests.services.gateway.gateway_under_test import (
    GatewayUnderTest,
    kinds_of,
    run_gateway,
    text_of,
)


async def test_turn_streams_ids_text_usage_and_end_in_order(
    gateway: GatewayUnderTest,
) -> None:
    events = await gateway.ask("What is the answer?")
    assert kinds_of(events) == ["started", "text_delta", "usage", "completed"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert text_of(events) == "The answer is 42."
    started, completed = events[0].started, events[-1].completed
    assert (started.model_version, started.arm, started.policy_version) == (
        STABLE,
        "stable",
        POLICY_VERSION,
    )
    assert completed.finish_reason == chat_pb2.FINISH_REASON_STOP
    assert completed.text_sha256 == hashlib.sha256(b"The answer is 42.").hexdigest()
    assert events[-2].usage == chat_pb2.Usage(prompt_tokens=7, completion_tokens=4)


async def test_stored_answer_is_the_visible_text_with_training_data(
    gateway: GatewayUnderTest,
) -> None:
    events = await gateway.ask("What is the answer?")
    stored = gateway.fakes.session.finished[events[0].message_id]
    assert stored.text == text_of(events)
    assert (stored.model_version, stored.arm, stored.assignment_probability) == (
        STABLE,
        "stable",
        1,
    )
    assert (stored.temperature, stored.top_p, stored.policy_version) == (0.5, 0.75, POLICY_VERSION)
    # The task that the generator chose.
    assert stored.task == chat_pb2.TASK_CHAT
    assert stored.usage.completion_tokens == 4


async def test_sample_is_sent_only_to_session(
    gateway: GatewayUnderTest,
) -> None:
    events = await gateway.ask("What is the answer?")
    stored = gateway.fakes.session.finished[events[0].message_id]
    assert stored.sample == gateway.fakes.generator.sample
    assert not any("90000000" in str(event) or "log_prob" in str(event) for event in events)


async def test_no_sample_without_tokens_of_the_model_server(gateway: GatewayUnderTest) -> None:
    gateway.fakes.generator.sample = None
    events = await gateway.ask("What is the answer?")
    assert not gateway.fakes.session.finished[events[0].message_id].HasField("sample")


async def test_changed_or_cut_answer_has_no_sample(
    gateway: GatewayUnderTest,
) -> None:
    for deltas in (["The key is ", SECRET], ["Fine. ", f"{BAD_WORD} and so on"]):
        gateway.fakes.generator.deltas = deltas
        events = await gateway.ask("Tell me")
        stored = gateway.fakes.session.finished[events[0].message_id]
        assert stored.guard_category
        assert not stored.HasField("sample")


async def test_held_text_keeps_its_sample(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.guardrail.held_characters = 10
    events = await gateway.ask("What is the answer?")
    assert text_of(events) == "The answer is 42."
    assert (
        gateway.fakes.session.finished[events[0].message_id].sample
        == gateway.fakes.generator.sample
    )


async def test_enhanced_text_is_shown_and_both_texts_are_checked(
    gateway: GatewayUnderTest,
) -> None:
    events = await gateway.ask("hw does it work?")
    assert kinds_of(events)[:2] == ["started", "enhanced"]
    assert events[1].enhanced.original_text == "hw does it work?"
    assert events[1].enhanced.text == "how does it work?"
    assert events[1].enhanced.edits[0].replacement == "how"
    assert gateway.fakes.guardrail.inputs == [["hw does it work?"], ["how does it work?"]]
    assert gateway.fakes.generator.requests[0].messages[-1].text == "how does it work?"


async def test_unchanged_text_is_checked_once(gateway: GatewayUnderTest) -> None:
    await gateway.ask("How does it work?")
    assert gateway.fakes.guardrail.inputs == [["How does it work?"]]


async def test_typed_text_is_checked_while_the_enhancer_works(gateway: GatewayUnderTest) -> None:
    async def until_checked() -> None:
        async with asyncio.timeout(10):
            while not gateway.fakes.guardrail.inputs:
                await asyncio.sleep(0.01)

    gateway.fakes.enhancer.before_answer = until_checked
    assert text_of(await gateway.ask("hw does it work?")) == "The answer is 42."


@pytest.mark.parametrize("forbidden", ["hw does", "how does"], ids=["typed", "enhanced"])
async def test_each_of_both_texts_can_be_refused(gateway: GatewayUnderTest, forbidden: str) -> None:
    gateway.fakes.guardrail.forbidden = forbidden
    events = await gateway.ask("hw does it work?")
    assert text_of(events) == "I cannot help with that."
    assert gateway.fakes.generator.requests == []


@pytest.mark.parametrize("role", ROLES)
async def test_history_of_every_role_is_checked_and_a_refused_one_is_not_stored(
    gateway: GatewayUnderTest, role: chat_pb2.Role.ValueType
) -> None:
    """Finding S-05: the guard saw user messages only, and a refused history was stored."""
    history = [chat_pb2.HistoryMessage(role=role, text=f"Do the {FORBIDDEN} thing.")]
    user_input = chat_pb2.UserInput(text="Please go on.", history=history)
    events = [
        event
        async for event in gateway.chat.SendMessage(
            chat_pb2.SendMessageRequest(input=user_input),
            timeout=10,
            metadata=gateway.metadata(),
        )
    ]
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_INPUT_BLOCKED
    assert gateway.fakes.guardrail.roles == [[chat_pb2.ROLE_USER, role]]
    assert not gateway.fakes.generator.requests
    begun = [
        session_pb2.BeginTurnRequest.FromString(payload)
        for payload, _ in gateway.fakes.session.requests.values()
    ]
    assert [(turn.user.text, len(turn.history)) for turn in begun] == [("Please go on.", 0)]


async def test_instructions_of_the_installation_are_not_judged(
    gateway: GatewayUnderTest,
) -> None:
    """Only texts of the request are judged; an operator answers for the own instructions."""
    gateway.fakes.session.instructions = f"Never do the {FORBIDDEN} thing."
    events = await gateway.ask("What is the answer?")
    assert text_of(events) == "The answer is 42."
    assert gateway.fakes.guardrail.inputs == [["What is the answer?"]]
    assert gateway.fakes.generator.requests[0].messages[0].text == (
        gateway.fakes.session.instructions
    )


@pytest.mark.parametrize("role", [chat_pb2.ROLE_UNSPECIFIED, 9])
async def test_unknown_role_is_refused(gateway: GatewayUnderTest, role: int) -> None:
    """Finding S-05: a role is refused as long as no rule says how to judge its texts."""
    message = chat_pb2.HistoryMessage(role=chat_pb2.Role.ValueType(role), text="Hi")
    user_input = chat_pb2.UserInput(text="Please go on.", history=[message])
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in gateway.chat.SendMessage(
            chat_pb2.SendMessageRequest(input=user_input),
            timeout=10,
            metadata=gateway.metadata(),
        ):
            pass
    assert from_rpc(caught.value, "gateway").field == "input.history[0].role"


async def test_enhancer_can_be_skipped(gateway: GatewayUnderTest) -> None:
    events = await gateway.ask("hw does it work?", skip_enhancer=True)
    assert "enhanced" not in kinds_of(events)
    assert gateway.fakes.guardrail.inputs == [["hw does it work?"]]


async def test_unavailable_enhancer_leaves_the_text_as_typed(gateway: GatewayUnderTest) -> None:
    gateway.fakes.enhancer.away = True
    events = await gateway.ask("hw does it work?")
    assert text_of(events) == "The answer is 42."
    assert gateway.fakes.generator.requests[0].messages[-1].text == "hw does it work?"


async def test_blocked_input_is_rejected_without_calling_the_model(
    gateway: GatewayUnderTest,
) -> None:
    events = await gateway.ask(f"Do the {FORBIDDEN} thing")
    assert kinds_of(events) == ["started", "verdict", "text_delta", "completed"]
    assert (events[1].verdict.stage, events[1].verdict.action) == ("input", "block")
    assert events[0].started.model_version == ""
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_INPUT_BLOCKED
    assert gateway.fakes.generator.requests == []
    stored = gateway.fakes.session.finished[events[0].message_id]
    assert (stored.guard_category, stored.text) == ("harmful_intent", "I cannot help with that.")


async def test_blocked_output_ends_before_the_blocked_part_and_stops_the_model(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.generator.deltas = ["Fine. ", f"{BAD_WORD} and ", "so on"]
    hold = asyncio.Event()
    gateway.fakes.generator.gate = lambda number: hold.wait() if number == 2 else asyncio.sleep(0)
    events = await gateway.ask("Tell me")
    assert BAD_WORD not in text_of(events)
    assert text_of(events).endswith("I stop here.")
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_OUTPUT_BLOCKED
    await asyncio.wait_for(gateway.fakes.generator.cancelled.wait(), 5)
    assert gateway.fakes.session.finished[events[0].message_id].guard_category == "harmful_content"


async def test_secret_is_redacted_and_reported_by_a_verdict(gateway: GatewayUnderTest) -> None:
    gateway.fakes.generator.deltas = ["The key is ", SECRET]
    gateway.fakes.guardrail.held_characters = 10
    events = await gateway.ask("Tell me")
    assert text_of(events) == "The key is [removed]"
    assert [event.verdict.category for event in events if event.HasField("verdict")] == ["secret"]
    assert gateway.fakes.session.finished[events[0].message_id].guard_category == "secret"


async def test_unavailable_guard_means_no_answer_and_a_stored_message(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.guardrail.away = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.ask()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gateway.fakes.generator.requests == []
    # The channel retried without a request_id, so each attempt is a separate message.
    await _until(
        lambda: len(gateway.fakes.session.finished) == len(gateway.fakes.session.messages) // 2
    )
    stored = gateway.fakes.session.finished.values()
    assert {(answer.text, answer.finish_reason) for answer in stored} == {
        ("", chat_pb2.FINISH_REASON_FAILED)
    }


async def test_guard_outage_during_an_answer_ends_the_stream_without_unchecked_text(
    gateway: GatewayUnderTest,
) -> None:
    async def go_away_after_the_first() -> None:
        gateway.fakes.guardrail.away = len(gateway.fakes.guardrail.outputs) > 1

    gateway.fakes.guardrail.before_verdict = go_away_after_the_first
    release = asyncio.Event()
    gateway.fakes.generator.gate = lambda number: (
        release.wait() if number == 1 else asyncio.sleep(0)
    )
    events, call = [], gateway.send()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in call:
            events.append(event)
            if event.HasField("text_delta"):
                release.set()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert text_of(events) == "The "
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_FAILED
    await _until(lambda: events[0].message_id in gateway.fakes.session.finished)
    assert gateway.fakes.session.finished[events[0].message_id].text == "The "


async def test_lost_model_server_keeps_the_text_and_ends_with_its_error(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.generator.breaks_after = 2
    events = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for event in gateway.send():
            events.append(event)
    assert text_of(events) == "The answer "
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_FAILED
    assert from_rpc(caught.value, "gateway").reason == "MODEL_SERVER_AWAY"
    await _until(lambda: events[0].message_id in gateway.fakes.session.finished)
    assert (
        gateway.fakes.session.finished[events[0].message_id].finish_reason
        == chat_pb2.FINISH_REASON_FAILED
    )


async def test_silent_generator_times_out(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, idle_seconds=0.2) as gateway:
        never = asyncio.Event()
        gateway.fakes.generator.gate = lambda number: (
            never.wait() if number == 1 else asyncio.sleep(0)
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.ask()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(gateway.fakes.generator.cancelled.wait(), 5)


async def test_turn_past_its_deadline_ends_and_its_text_is_stored(
    tmp_path: Path,
) -> None:
    async with run_gateway(tmp_path, turn_seconds=0.4) as gateway:
        never = asyncio.Event()
        gateway.fakes.generator.gate = lambda number: (
            never.wait() if number == 1 else asyncio.sleep(0)
        )
        events = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in gateway.send():
                events.append(event)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await _until(lambda: events[0].message_id in gateway.fakes.session.finished)
        assert gateway.fakes.session.finished[events[0].message_id].text == "The "


async def test_guard_reply_without_a_verdict_is_an_error(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.guardrail.gives_verdicts = False
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await gateway.ask()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert from_rpc(caught.value, "gateway").reason == "GUARDRAIL_UNAVAILABLE"
    assert len(gateway.fakes.guardrail.inputs) == 1
    assert gateway.fakes.generator.requests == []


async def test_storing_waits_for_a_restarting_session_service(gateway: GatewayUnderTest) -> None:
    gateway.fakes.session.away_at_finish = 4
    events = await gateway.ask()
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_STOP
    assert gateway.fakes.session.finished[events[0].message_id].text == text_of(events)


async def test_answer_that_cannot_be_stored_is_shown_and_reported(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, finish_seconds=0.3) as gateway:
        gateway.fakes.session.away_at_finish = 1000
        events = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for event in gateway.send():
                events.append(event)
    assert text_of(events) == "The answer is 42."
    assert events[-1].completed.finish_reason == chat_pb2.FINISH_REASON_FAILED
    assert from_rpc(caught.value, "gateway").reason == "ANSWER_NOT_STORED"


async def test_regenerated_answer_is_checked_and_has_the_same_parent(
    gateway: GatewayUnderTest,
) -> None:
    first = await gateway.ask("hw does it work?")
    request = chat_pb2.SendMessageRequest(
        regenerate=chat_pb2.Regenerate(message_id=first[0].message_id)
    )
    second = [
        event
        async for event in gateway.chat.SendMessage(
            request, timeout=10, metadata=gateway.metadata()
        )
    ]
    assert second[0].message_id != first[0].message_id
    assert second[0].started.user_message_id == first[0].started.user_message_id
    assert gateway.fakes.guardrail.inputs[-1] == ["hw does it work?", "how does it work?"]


async def test_pinned_version_answers_with_the_callers_identity(
    gateway: GatewayUnderTest,
) -> None:
    call = gateway.chat.SendMessage(
        chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text="Hello"), model=CANDIDATE),
        timeout=10,
        metadata=(*gateway.metadata(), ("x-tw-tenant", "evil"), ("x-tw-user", "root")),
    )
    events = [event async for event in call]
    assert (events[0].started.model_version, events[0].started.arm) == (CANDIDATE, "pinned")
    assert gateway.fakes.generator.users == ["acme/ada"]
    assert gateway.fakes.generator.requests[0].user_key == "acme/ada"


async def _until(condition: object) -> None:
    async with asyncio.timeout(5):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.01)
