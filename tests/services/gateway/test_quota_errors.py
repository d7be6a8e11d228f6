"""Exhausted quotas in each API: RetryInfo in gRPC, Retry-After in HTTP, OpenAI's headers."""

import asyncio
import re
from dataclasses import astuple
from pathlib import Path
from typing import Any

import grpc
import openai
import pytest
from pydantic import ValidationError
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from infra.run.embedded.layout import UNLIMITED_QUOTAS
from services.chassis.errors import ResourceExhaustedError, from_rpc
from services.chassis.identity import Caller
from services.gateway.http.errors import duration
from services.gateway.identity.authentication import OWNER
from services.gateway.quotas.quota import Allowance
from services.gateway.settings import GatewaySettings
from tests.servers import ValkeyServer
from tests.services.gateway.calls import (
    GeneratorGate,
    collect,
    read_to_error,
    resuming,
    until_text,
)
from tests.services.gateway.gateway_under_test import (
    PRINCIPAL_KEY,
    GatewayUnderTest,
    new_key,
    run_gateway,
)
from tests.services.gateway.two_gateways import two_gateways

QUESTION: Any = [{"role": "user", "content": "What is it?"}]
ACME = {"acme": {"user_requests_per_minute": 2, "user_tokens_per_day": 1_000}}


async def test_grpc_error_has_the_limit_and_the_retry_time(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, user_requests_per_minute=1) as gateway:
        await gateway.ask()
        events, error = await read_to_error(gateway.send())
    assert (events, type(error)) == ([], ResourceExhaustedError)
    assert (error.reason, error.limit) == ("RATE_LIMITED", "1 requests per minute of a user")
    assert 50 < error.retry_seconds <= 62
    assert gateway.fakes.session.finished.keys() == {
        message.id for message in gateway.fakes.session.messages.values() if message.parent_id
    }


async def test_page_api_returns_429_with_retry_after(tmp_path: Path) -> None:
    async with run_gateway(tmp_path, user_requests_per_minute=1) as gateway:
        await gateway.ask()
        body = {"input": {"text": "What is it?"}}
        async with gateway.http.post(
            f"{gateway.url}/api/messages", json=body, headers=gateway.headers()
        ) as response:
            error = (await response.json())["error"]
    assert (response.status, error["type"], error["code"]) == (
        429,
        "rate_limit_error",
        "rate_limited",
    )
    assert re.search(r"\b1\b", error["message"]), "the limit"
    assert 50 < int(response.headers["retry-after"]) <= 62


@pytest.mark.parametrize("stream", [False, True])
async def test_openai_headers_show_the_remaining_quota(tmp_path: Path, stream: bool) -> None:
    async with run_gateway(tmp_path, quota_overrides=ACME) as gateway, _openai(gateway) as api:
        ask = api.chat.completions.with_raw_response.create
        heads = []
        for _ in range(2):
            answer = await ask(model="thumbwheel", messages=QUESTION, max_tokens=100, stream=stream)
            heads.append(answer.headers)
            if stream:
                async for _ in await _parsed(answer):
                    pass
            await asyncio.sleep(0.05)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(model="thumbwheel", messages=QUESTION, max_tokens=100, stream=stream)
    left = [
        (head["x-ratelimit-remaining-requests"], head["x-ratelimit-remaining-tokens"])
        for head in heads
    ]
    # 4 tokens are reserved for the question and 100 for the answer. The first turn used 11.
    assert left == [("1", "896"), ("0", "885")]
    refused = caught.value.response.headers
    assert (refused["x-ratelimit-limit-requests"], refused["x-ratelimit-remaining-requests"]) == (
        "2",
        "0",
    )
    assert re.fullmatch(r"5\ds|1m[012]s", refused["x-ratelimit-reset-requests"])
    assert refused["x-ratelimit-remaining-tokens"] == "978"
    assert 50 < int(refused["retry-after"]) <= 62
    assert (caught.value.code, caught.value.status_code) == ("rate_limited", 429)


def _openai(gateway: GatewayUnderTest) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0)


async def _parsed(answer: Any) -> Any:
    parsed = answer.parse()
    return await parsed if asyncio.iscoroutine(parsed) else parsed


async def test_no_headers_without_limits(tmp_path: Path) -> None:
    async with run_gateway(tmp_path) as gateway, _openai(gateway) as api:
        answer = await api.chat.completions.with_raw_response.create(
            model="thumbwheel", messages=QUESTION
        )
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


async def test_limits_are_on_by_default() -> None:
    """Finding S-14: all limits of rates were off."""
    settings = GatewaySettings.model_validate({"principal_key": PRINCIPAL_KEY})
    user = Allowance(60, 500_000, 8, 120, 20, 600, 10)
    tenant = Allowance(*(20 * limit for limit in astuple(user)))
    assert (settings.quota_rules().user, settings.quota_rules().tenant) == (user, tenant)


async def test_owner_has_ten_times_the_limits_of_a_user_within_those_of_the_tenant(
    tmp_path: Path,
) -> None:
    async with run_gateway(
        tmp_path, user_requests_per_minute=1, tenant_requests_per_minute=12
    ) as gateway:
        owner = await new_key(gateway.store, OWNER)
        namesake = await new_key(gateway.store, Caller("umbrella", OWNER.user))
        for _ in range(10):
            await gateway.ask(key=owner)
        _, error = await read_to_error(gateway.send(key=owner))
        assert error.limit == "10 requests per minute of a user"
        await gateway.ask(key=namesake)
        _, error = await read_to_error(gateway.send(key=namesake))
        assert error.limit == "1 requests per minute of a user"


def test_every_limit_can_be_turned_off() -> None:
    settings = {"principal_key": PRINCIPAL_KEY, **UNLIMITED_QUOTAS["gateway"]}
    rules = GatewaySettings.model_validate(settings).quota_rules()
    assert rules.user == rules.tenant == Allowance()


async def test_feedback_above_the_limit_is_refused_before_other_services_are_asked(
    tmp_path: Path,
) -> None:
    """Finding S-14: 31,000 corrections filled the write-ahead log in half a minute."""
    async with run_gateway(tmp_path, user_feedback_per_minute=1) as gateway:
        message_id = (await gateway.ask())[0].message_id
        body = {"messageId": message_id, "requestId": "r", "thumb": {"up": True}}
        heads, codes = [], []
        for key in (gateway.key, gateway.key, gateway.other_key):
            async with gateway.http.post(
                f"{gateway.url}/api/feedback", json=body, headers=gateway.headers(key)
            ) as response:
                heads.append(response.headers)
                codes.append((await response.json()).get("error", {}).get("code"))
        assert codes == [None, "feedback_rate_limited", "not_found"]
        assert 50 < int(heads[1]["retry-after"]) <= 62
        assert heads[1]["x-ratelimit-limit-feedback"] == "1"
        assert heads[1]["x-ratelimit-remaining-feedback"] == "0"
        correction = feedback_pb2.SubmitFeedbackRequest(
            message_id=message_id,
            request_id="s",
            correction=events_pb2.Correction(text="Better."),
        )
        before = len(gateway.fakes.guardrail.outputs)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gateway.feedback.SubmitFeedback(
                correction, timeout=10, metadata=gateway.metadata()
            )
        error = from_rpc(caught.value, "gateway")
        assert isinstance(error, ResourceExhaustedError)
        assert (error.reason, error.limit) == (
            "FEEDBACK_RATE_LIMITED",
            "1 feedback events per minute of a user",
        )
        assert len(gateway.fakes.guardrail.outputs) == before
        assert len(gateway.fakes.feedback.events) == 1


async def test_feedback_in_another_gateway_is_counted(tmp_path: Path, valkey: ValkeyServer) -> None:
    limit = {"tenant_feedback_per_minute": 1}
    async with two_gateways(tmp_path, valkey.database(), **limit) as (here, there):
        message_id = (await here.ask())[0].message_id
        reasons = []
        for gateway in (here, there):
            body = {"messageId": message_id, "requestId": "r", "thumb": {"up": True}}
            async with gateway.http.post(
                f"{gateway.url}/api/feedback", json=body, headers=gateway.headers()
            ) as response:
                reasons.append((await response.json()).get("error", {}).get("code"))
    assert reasons == [None, "feedback_rate_limited"]


async def test_additional_readers_of_turns_are_limited(tmp_path: Path) -> None:
    """Finding S-14: any number of readers was served, each at the cost of the first."""
    async with run_gateway(tmp_path, max_readers_per_user=2) as gateway:
        hold = GeneratorGate(gateway, at=1)
        call = gateway.send(request_id="once")
        message_id = (await until_text(call))[0].message_id
        readers = [resuming(gateway, message_id), gateway.send(request_id="once")]
        for reader in readers:
            await until_text(reader)
        _, refused = await read_to_error(resuming(gateway, message_id))
        assert (refused.reason, refused.limit) == (
            "TOO_MANY_READERS",
            "2 concurrent readers of turns of a user",
        )
        async with gateway.http.get(
            f"{gateway.url}/api/messages/{message_id}/events", headers=gateway.headers()
        ) as response:
            assert (response.status, response.headers["retry-after"]) == (429, "1")
        hold.go.set()
        for reader in (call, *readers):
            assert (await collect(reader))[-1].HasField("completed")
        assert (await collect(resuming(gateway, message_id)))[-1].HasField("completed")


@pytest.mark.parametrize(
    ("limit", "reason", "text", "ask", "window"),
    [
        (
            "user_calls_per_minute",
            "CALLS_RATE_LIMITED",
            "2 calls per minute of a user",
            "GET /api/consent",
            60,
        ),
        (
            "user_erasures_per_hour",
            "ERASURES_RATE_LIMITED",
            "2 erasures per hour of a user",
            "POST /api/erasure",
            3_600,
        ),
    ],
)
async def test_calls_and_erasures_above_the_limit_are_refused(
    tmp_path: Path, limit: str, reason: str, text: str, ask: str, window: int
) -> None:
    """Finding N-13: only turns, feedback and reviews were counted."""
    verb, path = ask.split()
    async with run_gateway(tmp_path, **{limit: 2}) as gateway:
        answers = []
        for key in (gateway.key, gateway.key, gateway.key, gateway.other_key):
            async with gateway.http.request(
                verb, gateway.url + path, headers=gateway.headers(key)
            ) as response:
                answers.append((response.status, response.headers.get("retry-after")))
                body = await response.json()
                assert response.status == 200 or text in body["error"]["message"]
        refused = answers.pop(2)
        assert answers == [(200, None)] * 3
        assert refused[0] == 429
        assert 0.9 * window < int(refused[1] or 0) <= window * 1.05
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            # Refused by either limit.
            await gateway.feedback.EraseMyData(
                feedback_pb2.EraseMyDataRequest(), timeout=10, metadata=gateway.metadata()
            )
        error = from_rpc(caught.value, "gateway")
        assert (error.reason, error.limit) == (reason, text)
        assert 0.9 * window < error.retry_seconds <= window * 1.05


async def test_readers_of_a_turn_in_another_gateway_are_limited(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    limit = {"max_readers_per_user": 1}
    async with two_gateways(tmp_path, valkey.database(), **limit) as (here, there):
        hold = GeneratorGate(here, at=1)
        call = here.send()
        message_id = (await until_text(call))[0].message_id
        reader = resuming(there, message_id)
        await until_text(reader)
        _, refused = await read_to_error(resuming(there, message_id))
        assert refused.reason == "TOO_MANY_READERS"
        hold.go.set()
        assert (await collect(reader))[-1].HasField("completed")
        await collect(call)


async def test_full_store_of_conversations_is_refused_with_its_limit(tmp_path: Path) -> None:
    async with run_gateway(tmp_path) as gateway:
        gateway.fakes.session.full = "2,000 conversations of a user"
        async with gateway.http.post(
            f"{gateway.url}/api/messages",
            json={"input": {"text": "What is it?"}},
            headers=gateway.headers(),
        ) as response:
            error = (await response.json())["error"]
    assert (response.status, error["code"]) == (429, "too_many_conversations")
    assert "2,000 conversations of a user" in error["message"]
    assert "retry-after" not in response.headers


async def test_turn_in_another_gateway_is_counted(tmp_path: Path, valkey: ValkeyServer) -> None:
    async with two_gateways(tmp_path, valkey.database(), max_turns_per_user=1) as (here, there):
        hold = GeneratorGate(here, at=1)
        call = here.send()
        seen = await until_text(call)
        _, error = await read_to_error(there.send())
        assert (error.reason, error.limit) == ("TOO_MANY_TURNS", "1 concurrent turns of a user")
        hold.go.set()
        assert (await collect(call))[-1].HasField("completed")
        assert seen[0].started
        async with asyncio.timeout(5):
            while True:
                # The reservation is settled shortly after the end of the turn.
                _, error_or_none = await _try(there)
                if error_or_none is None:
                    break
                await asyncio.sleep(0.02)


async def _try(gateway: GatewayUnderTest) -> tuple[Any, Any]:
    try:
        return await gateway.ask(), None
    except Exception as error:  # noqa: BLE001 - looked at by the caller
        return [], error


@pytest.mark.parametrize(
    "wrong",
    [
        {"quota_overrides": {"acme": {"user_requests": 1}}},
        {"quota_overrides": {"acme": {"user_requests_per_minute": -1}}},
        {"quota_overrides": {"acme": 5}},
        {"user_tokens_per_day": -1},
        {"quota_when_away": "panic"},
        {"valkey_url": "valkey://localhost"},
        {"valkey_url": "http://localhost", "valkey_secret": "0123456789abcdef"},
    ],
)
def test_meaningless_settings_are_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        GatewaySettings.model_validate({"principal_key": PRINCIPAL_KEY, **wrong})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.2, "1s"),
        (59.5, "1m0s"),
        (360, "6m0s"),
        (3_600, "1h0m0s"),
        (86_399, "23h59m59s"),
    ],
)
def test_durations_have_openais_format(seconds: float, text: str) -> None:
    assert duration(seconds) == text
