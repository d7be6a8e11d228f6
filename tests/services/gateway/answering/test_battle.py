"""Battles: the version answers and is stored, and nothing that a user reads contains it."""

import logging
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import generate_latest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2
from thumbwheel.review.v1 import arena_pb2

from services.chassis.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
    from_rpc,
)
from tests.services.gateway.calls import collect, read_to_error, resume
from tests.services.gateway.fakes import backends
from tests.services.gateway.gateway_under_test import (
    GatewayUnderTest,
    kinds_of,
    run_gateway,
    run_gateway_over,
    text_of,
)
from tests.support.errors import refused

# Names that occur nowhere else.
FIRST, SECOND = "amber-17", "cobalt-23"
GREEDY = chat_pb2.SamplingOverrides(temperature=0)
QUESTION = chat_pb2.UserInput(text="What is it?")


async def new_battle(gateway: GatewayUnderTest, key: str | None = None) -> arena_pb2.Battle:
    gateway.fakes.review.versions = (FIRST, SECOND)
    request = arena_pb2.CreateBattleRequest(request_id="battle")
    metadata = gateway.metadata(key)
    created: arena_pb2.CreateBattleResponse = await gateway.arena.CreateBattle(
        request, timeout=10, metadata=metadata
    )
    return created.battle


def sending(gateway: GatewayUnderTest, model: str, key: str | None = None, **more: Any) -> Any:
    request = chat_pb2.SendMessageRequest(model=model, **{"input": QUESTION, **more})
    return gateway.chat.SendMessage(request, timeout=10, metadata=gateway.metadata(key))


async def answers(gateway: GatewayUnderTest) -> tuple[arena_pb2.Battle, list[list[Any]]]:
    """Return a new battle and the events of both answers."""
    battle = await new_battle(gateway)
    first = await collect(sending(gateway, battle.models[0], request_id="first"))
    asked = chat_pb2.SendMessageRequest(
        regenerate=chat_pb2.Regenerate(message_id=first[0].started.user_message_id),
        model=battle.models[1],
        request_id="second",
    )
    call = gateway.chat.SendMessage(asked, timeout=10, metadata=gateway.metadata())
    return battle, [first, await collect(call)]


def shows_no_version(*messages: Any) -> None:
    for message in messages:
        data = message if isinstance(message, bytes) else message.SerializeToString()
        assert FIRST.encode() not in data
        assert SECOND.encode() not in data


async def test_events_name_no_version_and_the_stored_answers_do(gateway: GatewayUnderTest) -> None:
    _, both = await answers(gateway)
    generator, finished = gateway.fakes.generator, gateway.fakes.session.finished
    assert [asked.pinned_version for asked in generator.requests] == [FIRST, SECOND]
    for version, events in zip((FIRST, SECOND), both, strict=True):
        shows_no_version(*events)
        assert (events[0].started.arm, events[0].started.model_version) == ("battle", "")
        assert text_of(events) == "The answer is 42."
        # Token counts differ between models.
        assert kinds_of(events) == ["started", "text_delta", "completed"]
        stored = finished[events[0].message_id]
        assert (stored.model_version, stored.arm) == (version, "battle")
        assert stored.usage.completion_tokens == 4


async def test_resumed_and_repeated_answers_name_no_version(tmp_path: Path) -> None:
    async with backends() as (fakes, target):
        async with run_gateway_over(tmp_path, fakes, target) as gateway:
            battle, (first, _) = await answers(gateway)
            shows_no_version(*await resume(gateway, first[0].message_id))
        # A new process knows no turn, so it repeats the stored answer, which has its version.
        assert fakes.session.messages[first[0].message_id].model_version == FIRST
        async with run_gateway_over(tmp_path, fakes, target) as gateway:
            again = await collect(sending(gateway, battle.models[0], request_id="first"))
    assert text_of(again) == "The answer is 42."
    assert again[0].message_id == first[0].message_id
    assert again[0].started.arm == "battle"
    shows_no_version(*again)
    assert len(fakes.generator.requests) == 2


async def test_conversations_name_no_version(gateway: GatewayUnderTest) -> None:
    _, both = await answers(gateway)
    chat_answer = await gateway.ask()
    conversation_id = both[0][0].started.conversation_id
    request = chat_pb2.GetConversationRequest(conversation_id=conversation_id)
    found = await gateway.chat.GetConversation(request, timeout=10, metadata=gateway.metadata())
    shows_no_version(found)
    assert [message.arm for message in found.messages] == ["", "battle", "battle"]
    async with gateway.http.get(
        f"{gateway.url}/api/conversations/{conversation_id}", headers=gateway.headers()
    ) as response:
        shows_no_version(await response.read())
    assert response.status == 200
    # Other answers keep their version.
    assert chat_answer[0].started.model_version


async def test_http_shows_no_version(gateway: GatewayUnderTest) -> None:
    battle = await new_battle(gateway)
    body = {"input": {"text": "What is it?"}, "model": battle.models[0]}
    async with gateway.http.post(
        f"{gateway.url}/api/messages", json=body, headers=gateway.headers()
    ) as response:
        data = await response.read()
    assert b"42" in data
    shows_no_version(data)
    for stream in (False, True):
        asked = {
            "model": battle.models[0],
            "messages": [{"role": "user", "content": "What is it?"}],
            "stream": stream,
            "stream_options": {"include_usage": True} if stream else None,
        }
        async with gateway.http.post(
            f"{gateway.url}/v1/chat/completions",
            json={name: value for name, value in asked.items() if value is not None},
            headers=gateway.headers(),
        ) as response:
            data = await response.read()
        assert b"42" in data
        shows_no_version(data)


async def test_metrics_and_log_of_the_turn_name_no_version(
    gateway: GatewayUnderTest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await answers(gateway)
    shows_no_version(generate_latest(), caplog.text.encode())


async def test_tokens_count_for_the_quota(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, user_tokens_per_day=1_050) as gateway:
        battle = await new_battle(gateway)
        await collect(sending(gateway, battle.models[0]))
        # 11 tokens were used; the reservation of an answer is 1,024.
        async with gateway.http.post(
            f"{gateway.url}/v1/chat/completions",
            json={"model": "thumbwheel", "messages": [{"role": "user", "content": "hello"}]},
            headers=gateway.headers(),
        ) as response:
            remaining = int(response.headers["x-ratelimit-remaining-tokens"])
    assert remaining == 1_050 - 11 - 1_024 - 2


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NotFoundError(f"{FIRST} is not served", field=FIRST), UnavailableError),
        (UnavailableError(f"{FIRST} failed", reason="MODEL_NOT_READY"), UnavailableError),
        (ResourceExhaustedError(f"queue of {FIRST} is full"), ResourceExhaustedError),
    ],
)
@pytest.mark.parametrize("text_first", [True, False])
async def test_errors_name_no_version(
    gateway: GatewayUnderTest,
    error: ServiceError,
    expected: type[ServiceError],
    text_first: bool,
) -> None:
    battle = await new_battle(gateway)

    async def fail(number: int) -> None:
        if number == int(text_first):
            raise error

    gateway.fakes.generator.gate = fail
    call = sending(gateway, battle.models[0])
    events, found = await read_to_error(call)
    shows_no_version(*events)
    assert type(found) is expected
    shows_no_version(repr((found.text, found.reason, found.field, found.limit)).encode())


async def test_battle_is_answered_although_the_rollout_has_other_versions(
    gateway: GatewayUnderTest,
) -> None:
    battle = await new_battle(gateway)
    assert FIRST not in (gateway.fakes.generator.stable, gateway.fakes.generator.candidate)
    assert text_of(await collect(sending(gateway, battle.models[0])))


async def test_battle_of_another_user_is_refused_before_anything_is_stored(
    gateway: GatewayUnderTest,
) -> None:
    battle = await new_battle(gateway)
    for key in (gateway.other_key, gateway.namesakes_key):
        _, error = await read_to_error(sending(gateway, battle.models[0], key))
        assert (type(error), error.field) == (NotFoundError, "model")
    assert not gateway.fakes.session.messages


async def test_battle_with_a_vote_is_not_answered(gateway: GatewayUnderTest) -> None:
    battle, both = await answers(gateway)
    vote = arena_pb2.VoteBattleRequest(
        battle_id=battle.battle_id,
        message_ids=[events[0].message_id for events in both],
        outcome=arena_pb2.OUTCOME_TIE,
    )
    await gateway.arena.VoteBattle(vote, timeout=10, metadata=gateway.metadata())
    _, error = await read_to_error(sending(gateway, battle.models[0]))
    assert (type(error), error.field) == (FailedPreconditionError, "model")
    # The answers stay without their versions.
    shows_no_version(*await resume(gateway, both[0][0].message_id))


async def test_unavailable_review_service_stores_nothing(gateway: GatewayUnderTest) -> None:
    battle = await new_battle(gateway)
    gateway.fakes.review.away = True
    _, error = await read_to_error(sending(gateway, battle.models[0]))
    assert isinstance(error, UnavailableError)
    assert not gateway.fakes.session.messages
    assert not gateway.fakes.generator.requests
    # Chats do not need the service.
    assert text_of(await gateway.ask())


@pytest.mark.parametrize(
    "model", ["battle.x.a", f"battle.{'0' * 36}.a", "battle.018f0000-0000-7000-8000-000000000000.c"]
)
async def test_name_like_that_of_a_battle_is_an_unknown_version(
    gateway: GatewayUnderTest, model: str
) -> None:
    _, error = await read_to_error(sending(gateway, model))
    assert (type(error), error.reason) == (NotFoundError, "MODEL_NOT_FOUND")


async def test_cache_neither_answers_nor_stores_a_battle(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, answer_cache_seconds=600.0) as gateway:
        gateway.fakes.generator.candidate = ""
        gateway.fakes.generator.stable = FIRST
        battle = await new_battle(gateway)
        requests = gateway.fakes.generator.requests
        # The chats are the same question to the same version, pinned and chosen by the rollout.
        for model in (FIRST, "", battle.models[0], battle.models[0]):
            await collect(sending(gateway, model, sampling=GREEDY))
        assert len(requests) == 4
        for model in (FIRST, ""):
            events = await collect(sending(gateway, model, sampling=GREEDY))
            assert events[0].started.cached
            assert events[0].started.arm != "battle"
        assert len(requests) == 4


@pytest.mark.parametrize(
    "value",
    [{"thumb": {"up": True}}, {"correction": {"text": "42"}}, {"signal": {"kind": "copied"}}],
    ids=["thumb", "correction", "signal"],
)
async def test_answer_of_a_battle_takes_no_other_feedback(
    gateway: GatewayUnderTest, value: dict[str, Any]
) -> None:
    _, both = await answers(gateway)
    request = feedback_pb2.SubmitFeedbackRequest(
        message_id=both[0][0].message_id, request_id="thumb", **value
    )
    with refused(FailedPreconditionError, field="message_id", reason="ANSWER_OF_A_BATTLE"):
        try:
            await gateway.feedback.SubmitFeedback(request, timeout=10, metadata=gateway.metadata())
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error, "gateway") from error
    assert not gateway.fakes.feedback.events
