"""Consent and erasure of a user's data. A repeated erasure completes a failed one."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.errors import (
    DeadlineExceededError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
    from_rpc,
)
from services.gateway.own_data import OwnData
from services.gateway.quotas.quota import Allowance
from services.gateway.quotas.quotas import QuotaRules, Quotas
from services.gateway.turns import turns
from tests.services.gateway.calls import (
    GeneratorGate,
    counter_value,
    read_to_error,
    resume,
    resuming,
    until_text,
)
from tests.services.gateway.gateway_under_test import ADA, GatewayUnderTest, run_gateway
from tests.support.errors import refused

ERASURE = feedback_pb2.Erasure(erasure_id="018f0000-0000-7000-8000-000000000000")
STEPS = ("stop", "conversations", "key", "forget", "answers")


class Parts:
    """All participants of an erasure in one object. One step fails once."""

    def __init__(self, failing: str = "", error: ServiceError | None = None) -> None:
        self.done: list[str] = []
        self._failing, self._error = failing, error

    def _step(self, name: str) -> None:
        error, self._error = (self._error, None) if name == self._failing else (None, self._error)
        if error:
            raise error
        self.done.append(name)

    async def stop(self, caller_key: str) -> None:
        assert caller_key == ADA.key
        self._step("stop")

    async def forget(self, caller_key: str) -> None:
        assert caller_key == ADA.key
        self._step("forget")

    async def erase_user(self) -> int:
        self._step("conversations")
        return 3

    async def erase_principal(self) -> feedback_pb2.Erasure:
        self._step("key")
        return ERASURE

    async def drop_tenant(self, tenant: str) -> None:
        assert tenant == ADA.tenant
        self._step("answers")


def own_data(parts: Parts) -> OwnData:
    return OwnData(parts, parts, parts, parts, Quotas(QuotaRules(Allowance(), Allowance())))


async def test_erasure_stops_writers_before_it_clears_caches() -> None:
    parts = Parts()
    assert await own_data(parts).erase(ADA) == (ERASURE, 3)
    assert tuple(parts.done) == STEPS


@pytest.mark.parametrize("kind", [UnavailableError, DeadlineExceededError, ResourceExhaustedError])
@pytest.mark.parametrize("failing", STEPS)
async def test_failed_erasure_is_unavailable_and_completed_by_a_repetition(
    failing: str, kind: type[ServiceError]
) -> None:
    parts = Parts(failing, kind("failure on request"))
    unfinished = counter_value("thumbwheel_gateway_erasures_total", outcome="unfinished")
    with refused(UnavailableError, reason="ERASURE_UNFINISHED") as caught:
        await own_data(parts).erase(ADA)
    assert caught.value.retry_seconds == 1
    assert (
        counter_value("thumbwheel_gateway_erasures_total", outcome="unfinished") == unfinished + 1
    )
    before, parts.done = parts.done, []
    assert before == list(STEPS[: STEPS.index(failing)])
    await own_data(parts).erase(ADA)
    assert tuple(parts.done) == STEPS


def call(gateway: GatewayUnderTest, method: str, key: str | None = None, **given: Any) -> Any:
    """Call a method of FeedbackService by name."""
    request = getattr(feedback_pb2, f"{method}Request")(**given)
    return getattr(gateway.feedback, method)(request, timeout=20, metadata=gateway.metadata(key))


async def over_http(gateway: GatewayUnderTest, route: str, body: object = None) -> tuple[int, Any]:
    method, path = route.split(" ")
    async with gateway.http.request(
        method, gateway.url + path, json=body, headers=gateway.headers()
    ) as response:
        return response.status, await response.json()


async def thumb(gateway: GatewayUnderTest, message_id: str, key: str | None = None) -> str:
    said = feedback_pb2.SubmitFeedbackRequest(
        message_id=message_id, request_id="one", thumb=events_pb2.Thumb(up=True)
    )
    return str(
        (
            await gateway.feedback.SubmitFeedback(said, timeout=10, metadata=gateway.metadata(key))
        ).event_id
    )


async def test_consent_is_the_operators_default_until_set(
    gateway: GatewayUnderTest,
) -> None:
    assert await over_http(gateway, "GET /api/consent") == (200, {"consent": {"training": True}})
    said = await call(gateway, "SetConsent", training=False)
    assert said.consent.training is False
    status, found = await over_http(gateway, "GET /api/consent")
    assert (status, found["consent"]["training"]) == (200, False)
    assert said.consent.update_time.ToJsonString() == found["consent"]["updateTime"]
    status, found = await over_http(gateway, "PUT /api/consent", {"training": True})
    assert (status, found["consent"]["training"]) == (200, True)
    assert (await call(gateway, "GetConsent")).consent.training is True
    assert (await call(gateway, "GetConsent", gateway.other_key)).consent.HasField(
        "update_time"
    ) is False


async def test_consent_is_unavailable_during_a_feedback_outage(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.feedback.away = True
    for method, given in (("GetConsent", {}), ("SetConsent", {"training": False})):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(gateway, method, **given)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await over_http(gateway, "PUT /api/consent", {"training": False}))[0] == 503
    assert not gateway.fakes.feedback.consents


async def test_erasure_removes_all_data_of_the_user_and_none_of_others(
    gateway: GatewayUnderTest,
) -> None:
    mine, theirs = await gateway.ask(), await gateway.ask(key=gateway.other_key)
    said = [
        await thumb(gateway, mine[0].message_id),
        await thumb(gateway, theirs[0].message_id, gateway.other_key),
    ]
    status, erased = await over_http(gateway, "POST /api/erasure")
    assert (status, erased["removedConversations"]) == (200, 1)
    assert "rewriteTime" not in erased["erasure"]
    for attempt in (
        resuming(gateway, mine[0].message_id),
        gateway.send(regenerate=regenerate(mine)),
    ):
        events, error = await read_to_error(attempt)
        assert (events, type(error)) == ([], NotFoundError)
    found = await gateway.chat.ListConversations(
        chat_pb2.ListConversationsRequest(), timeout=5, metadata=gateway.metadata()
    )
    assert not found.conversations
    assert list(gateway.fakes.feedback.events) == said[1:]
    assert await resume(gateway, theirs[0].message_id, key=gateway.other_key) == theirs


def regenerate(turn: list[chat_pb2.ChatEvent]) -> chat_pb2.Regenerate:
    return chat_pb2.Regenerate(message_id=turn[0].message_id)


async def test_erasure_progress_is_visible_only_to_its_user(
    gateway: GatewayUnderTest,
) -> None:
    erasure_id = (await call(gateway, "EraseMyData")).erasure.erasure_id
    status, found = await over_http(gateway, f"GET /api/erasure/{erasure_id}")
    assert (status, "rewriteTime" in found["erasure"]) == (200, False)
    gateway.fakes.feedback.erasures[erasure_id][1].rewrite_time.GetCurrentTime()
    rewritten = (await call(gateway, "GetErasure", erasure_id=erasure_id)).erasure
    assert rewritten == gateway.fakes.feedback.erasures[erasure_id][1]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(gateway, "GetErasure", gateway.other_key, erasure_id=erasure_id)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_running_turn_is_stopped_and_removed(gateway: GatewayUnderTest) -> None:
    hold = GeneratorGate(gateway, at=1)
    running, other = gateway.send(), gateway.send(key=gateway.other_key)
    mine, theirs = await until_text(running), await until_text(other)
    await hold.reached.wait()
    erased = await call(gateway, "EraseMyData")
    assert erased.removed_conversations == 1
    ended = [event async for event in running]
    assert ended[-1].completed.finish_reason == chat_pb2.FINISH_REASON_CANCELLED
    assert type((await read_to_error(resuming(gateway, mine[0].message_id)))[1]) is NotFoundError
    hold.go.set()
    assert [event async for event in other][
        -1
    ].completed.finish_reason == chat_pb2.FINISH_REASON_STOP
    assert theirs[0].message_id in gateway.fakes.session.finished


async def test_turn_that_does_not_end_in_time_is_reported(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "STOP_SECONDS", 0.05)
    judged = asyncio.Event()
    gateway.fakes.guardrail.before_verdict = judged.wait
    running = asyncio.ensure_future(gateway.ask())
    while not gateway.fakes.guardrail.outputs:
        await asyncio.sleep(0.01)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(gateway, "EraseMyData")
    error = from_rpc(caught.value, "gateway")
    assert (type(error), error.reason) == (UnavailableError, "ERASURE_UNFINISHED")
    assert not gateway.fakes.feedback.erasures
    judged.set()
    await running
    assert (await call(gateway, "EraseMyData")).removed_conversations == 1


@pytest.mark.parametrize("away", ["session", "feedback"])
async def test_erasure_is_unavailable_during_a_service_outage(
    gateway: GatewayUnderTest, away: str
) -> None:
    turn = await gateway.ask()
    await thumb(gateway, turn[0].message_id)
    fake = getattr(gateway.fakes, away)
    fake.away = True
    status, refused = await over_http(gateway, "POST /api/erasure")
    assert (status, refused["error"]["code"]) == (503, "erasure_unfinished")
    assert not gateway.fakes.feedback.erasures
    fake.away = False
    status, erased = await over_http(gateway, "POST /api/erasure")
    assert (status, erased["erasure"]["erasureId"] in gateway.fakes.feedback.erasures) == (
        200,
        True,
    )
    assert not gateway.fakes.session.conversations
    assert not gateway.fakes.feedback.events


async def test_repetition_after_a_lost_reply_returns_the_same_erasure(
    gateway: GatewayUnderTest,
) -> None:
    gateway.fakes.feedback.lost_erasures = 1
    await gateway.ask()
    first = await call(gateway, "EraseMyData")
    again = await call(gateway, "EraseMyData")
    assert first.erasure.erasure_id == again.erasure.erasure_id
    assert len(gateway.fakes.feedback.erasures) == 1
    assert (first.removed_conversations, again.removed_conversations) == (1, 0)


async def test_erasure_clears_the_answer_cache_of_the_tenant(
    tmp_path: Path,
) -> None:
    greedy = chat_pb2.SamplingOverrides(temperature=0, max_tokens=50)
    async with run_gateway(tmp_path, answer_cache_seconds=60) as gateway:
        gateway.fakes.generator.candidate = ""
        for key in (gateway.key, gateway.namesakes_key):
            await gateway.ask(sampling=greedy, key=key)
        await call(gateway, "EraseMyData")
        again = [
            await gateway.ask(sampling=greedy, key=key)
            for key in (gateway.other_key, gateway.namesakes_key)
        ]
    assert [events[0].started.cached for events in again] == [False, True]


async def test_experiment_is_visible_to_operators(gateway: GatewayUnderTest) -> None:
    status, found = await over_http(gateway, "GET /api/experiment")
    (arm,) = found["arms"]
    assert (status, arm["modelVersion"], arm["exposedUsers"], arm["up"], arm["down"]) == (
        200,
        "nano-2",
        "3",
        "2",
        "0",
    )
    assert (arm["upRateLow"], arm["upRateHigh"]) == (0.2, 1.0)
    gateway.fakes.feedback.away = True
    assert (await over_http(gateway, "GET /api/experiment"))[0] == 503


async def test_thumbs_are_counted_for_operators_with_optional_start_time(
    gateway: GatewayUnderTest,
) -> None:
    await thumb(gateway, (await gateway.ask())[0].message_id)
    for since, up in (
        ("", "1"),
        ("?since=2024-01-01T00:00:00%2B00:00", "1"),
        ("?since=2124-01-01T00:00:00Z", "0"),
    ):
        status, found = await over_http(gateway, f"GET /api/thumbs{since}")
        assert (status, [(row["up"], row["down"]) for row in found["counts"]]) == (200, [(up, "0")])
    status, found = await over_http(gateway, "GET /api/thumbs?since=yesterday")
    assert (status, found["error"]["param"]) == (400, "since")
    gateway.fakes.feedback.away = True
    assert (await over_http(gateway, "GET /api/thumbs"))[0] == 503
