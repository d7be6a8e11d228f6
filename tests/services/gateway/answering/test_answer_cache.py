"""Cached answers: same request, temperature 0, same tenant, complete and unchanged by the guard."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2

from services.chassis.errors import from_rpc
from services.contracts.chat import Role, SamplingOverrides, Task
from services.gateway.answering.answer_cache import CachedAnswer, CacheKey, LocalCacheBackend
from services.gateway.shared.answer_cache import ValkeyCacheBackend
from services.gateway.shared.encryption import KeyDerivation
from services.gateway.shared.valkey_client import open_valkey
from tests.servers import ValkeyServer
from tests.services.gateway.calls import (
    GeneratorGate,
    cancel,
    collect,
    counter_value,
    until,
    until_text,
)
from tests.services.gateway.fakes import BAD_WORD, CANDIDATE, FORBIDDEN, SECRET, STABLE
from tests.services.gateway.gateway_under_test import (
    GatewayUnderTest,
    kinds_of,
    run_gateway,
    text_of,
)
from tests.services.gateway.two_gateways import everything, two_gateways

GREEDY = chat_pb2.SamplingOverrides(temperature=0, max_tokens=50)


@asynccontextmanager
async def caching(directory: Path, **changes: Any) -> AsyncIterator[GatewayUnderTest]:
    """Run a gateway with a cache and without an experiment."""
    async with run_gateway(directory, answer_cache_seconds=60, **changes) as gateway:
        gateway.fakes.generator.candidate = ""
        yield gateway


@pytest.fixture
async def kept(tmp_path: Path) -> AsyncIterator[GatewayUnderTest]:
    async with caching(tmp_path) as gateway:
        yield gateway


def generated(gateway: GatewayUnderTest) -> int:
    return len(gateway.fakes.generator.requests)


async def ask(
    gateway: GatewayUnderTest, text: str = "What is it?", **more: Any
) -> list[chat_pb2.ChatEvent]:
    events = await gateway.ask(text, **{"sampling": GREEDY, **more})
    # An answer is stored shortly after its end.
    await until(lambda: counter_value("thumbwheel_turns_running") == 0)
    return events


async def test_same_question_gets_the_cached_answer_and_is_marked(
    kept: GatewayUnderTest,
) -> None:
    kept_before = counter_value("thumbwheel_gateway_cached_answers_total", result="kept")
    first, again = await ask(kept), await ask(kept, key=kept.other_key)
    # A hit does not extend the lifetime.
    assert (
        counter_value("thumbwheel_gateway_cached_answers_total", result="kept") == kept_before + 1
    )
    assert generated(kept) == 1
    assert kinds_of(again) == ["started", "text_delta", "usage", "completed"]
    assert (text_of(again), again[-1].completed) == (text_of(first), first[-1].completed)
    assert (first[0].started.cached, again[0].started.cached) == (False, True)
    assert (again[0].started.model_version, again[0].started.arm) == (STABLE, "stable")
    assert again[-2].usage == chat_pb2.Usage(prompt_tokens=7, completion_tokens=4, cached=True)
    assert again[0].message_id != first[0].message_id
    stored = kept.fakes.session.finished[again[0].message_id]
    assert (stored.text, stored.model_version, stored.usage.cached) == (
        "The answer is 42.",
        STABLE,
        True,
    )
    assert not stored.HasField("sample")
    assert (stored.temperature, stored.top_p, stored.assignment_probability) == (0.5, 0.75, 1)


async def test_other_tenants_never_get_the_cached_answer(kept: GatewayUnderTest) -> None:
    await ask(kept)
    foreign = await ask(kept, key=kept.namesakes_key)
    assert not foreign[0].started.cached
    assert generated(kept) == 2


DIFFERENT: list[dict[str, Any]] = [
    {"text": "What is it"},
    {"task": chat_pb2.TASK_CODE},
    {"model": STABLE},
    {"sampling": chat_pb2.SamplingOverrides(temperature=0, max_tokens=51)},
    {"sampling": chat_pb2.SamplingOverrides(temperature=0, max_tokens=50, seed=1)},
    {"sampling": chat_pb2.SamplingOverrides(temperature=0, max_tokens=50, stop=["x"])},
    {"sampling": chat_pb2.SamplingOverrides(temperature=0, max_tokens=50, top_p=0.5)},
]


@pytest.mark.parametrize("change", DIFFERENT, ids=str)
async def test_any_difference_makes_another_key(
    kept: GatewayUnderTest, change: dict[str, Any]
) -> None:
    await ask(kept)
    changed = await ask(kept, **change)
    assert not changed[0].started.cached
    assert generated(kept) == 2
    again = await ask(kept, **change)
    assert again[0].started.cached


async def test_history_is_part_of_the_key(kept: GatewayUnderTest) -> None:
    history = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_SYSTEM, text="Be brief.")]
    await ask(kept)
    user_input = chat_pb2.UserInput(text="What is it?", history=history)
    request = chat_pb2.SendMessageRequest(input=user_input, sampling=GREEDY)
    events = await collect(kept.chat.SendMessage(request, timeout=10, metadata=kept.metadata()))
    assert not events[0].started.cached


@pytest.mark.parametrize("temperature", [None, 0.01, 1])
async def test_only_temperature_0_is_cached(
    kept: GatewayUnderTest, temperature: float | None
) -> None:
    sampling = chat_pb2.SamplingOverrides(temperature=temperature)
    for _ in range(2):
        assert not (await kept.ask(sampling=sampling))[0].started.cached
    assert generated(kept) == 2


async def test_new_version_or_policy_is_another_key(kept: GatewayUnderTest) -> None:
    await ask(kept)
    kept.fakes.generator.stable = "nano-9"
    assert (await ask(kept))[0].started.model_version == "nano-9"
    kept.fakes.guardrail.policy_version = "policy-2"
    assert not (await ask(kept))[0].started.cached
    assert generated(kept) == 3


async def test_experiment_disables_the_cache_except_for_pinned_versions(
    kept: GatewayUnderTest,
) -> None:
    kept.fakes.generator.candidate = CANDIDATE
    doubts = counter_value("thumbwheel_gateway_cached_answers_total", result="in_doubt")
    for _ in range(2):
        assert not (await ask(kept))[0].started.cached
    assert counter_value("thumbwheel_gateway_cached_answers_total", result="in_doubt") == doubts + 2
    await ask(kept, model=CANDIDATE)
    again = await ask(kept, model=CANDIDATE)
    assert (again[0].started.cached, again[0].started.arm) == (True, "pinned")


async def test_regeneration_is_not_cached(kept: GatewayUnderTest) -> None:
    first = await ask(kept)
    request = chat_pb2.SendMessageRequest(
        regenerate=chat_pb2.Regenerate(message_id=first[0].message_id), sampling=GREEDY
    )
    events = await collect(kept.chat.SendMessage(request, timeout=10, metadata=kept.metadata()))
    assert not events[0].started.cached


async def test_answers_changed_by_the_guard_are_never_cached(kept: GatewayUnderTest) -> None:
    for deltas in (["It is ", SECRET], ["Fine. ", f"{BAD_WORD}."]):
        kept.fakes.generator.deltas = deltas
        for _ in range(2):
            assert not (await ask(kept, deltas[0]))[0].started.cached
    assert generated(kept) == 4
    for _ in range(2):
        assert not (await ask(kept, FORBIDDEN))[0].started.cached


async def test_incomplete_answers_are_never_cached(kept: GatewayUnderTest) -> None:
    kept.fakes.generator.finish_reason = chat_pb2.FINISH_REASON_LENGTH
    for _ in range(2):
        assert not (await ask(kept, "cut by its length"))[0].started.cached
    kept.fakes.generator.finish_reason = chat_pb2.FINISH_REASON_STOP
    hold = GeneratorGate(kept, at=2)
    call = kept.send(sampling=GREEDY)
    seen = await until_text(call)
    await hold.reached.wait()
    assert await cancel(kept, seen[0].message_id)
    await collect(call)
    kept.fakes.generator.gate = None
    assert not (await ask(kept))[0].started.cached


async def test_input_guard_also_checks_cached_questions(
    kept: GatewayUnderTest,
) -> None:
    await ask(kept)
    await ask(kept)
    assert len(kept.fakes.guardrail.inputs) == 2
    kept.fakes.guardrail.away = True
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(kept)
    assert from_rpc(caught.value, "gateway").reason == "AWAY"


async def test_cached_turns_use_no_tokens_of_the_quota(tmp_path: Path) -> None:
    async with caching(tmp_path, user_tokens_per_day=80) as gateway:
        for _ in range(20):
            await ask(gateway)
    assert generated(gateway) == 1


async def test_cache_is_disabled_by_default(tmp_path: Path) -> None:
    async with run_gateway(tmp_path) as gateway:
        gateway.fakes.generator.candidate = ""
        for _ in range(2):
            assert not (await gateway.ask(sampling=GREEDY))[0].started.cached


async def test_gateways_share_encrypted_answers_and_work_without_valkey(
    tmp_path: Path, valkey: ValkeyServer
) -> None:
    url = valkey.database()
    async with two_gateways(tmp_path, url, answer_cache_seconds=60) as (here, there):
        here.fakes.generator.candidate = ""
        here.fakes.generator.deltas = ["canary-answer"]
        await ask(here, "canary-question")
        again = await ask(there, "canary-question", key=there.other_key)
        assert (again[0].started.cached, text_of(again)) == (True, "canary-answer")
        lies = await everything(url)
        assert "answers/acme" in lies
        assert "canary" not in lies
        valkey.kill()
        try:
            events = await ask(there, "canary-question")
            assert (events[0].started.cached, text_of(events)) == (False, "canary-answer")
        finally:
            await asyncio.to_thread(valkey.start)


QUESTION = CacheKey(
    "acme", STABLE, False, "p", Task.CHAT, SamplingOverrides(temperature=0), ((Role.USER, "hi"),)
)
ANSWER = CachedAnswer(
    "hello",
    generator_pb2.Selected(
        model_version=STABLE,
        arm="stable",
        assignment_probability=1.0,
        task=chat_pb2.TASK_CHAT,
        top_p=0.9,
    ),
    chat_pb2.Usage(prompt_tokens=7, completion_tokens=4),
)


@asynccontextmanager
async def stores(valkey: ValkeyServer, seconds: float, entries: int) -> AsyncIterator[list[Any]]:
    url = valkey.database()
    async with open_valkey(url, deadline_seconds=2) as client:
        yield [
            LocalCacheBackend(seconds, entries),
            ValkeyCacheBackend(client, KeyDerivation("a secret"), seconds, entries),
        ]


async def test_cached_answer_is_unchanged_and_expires(valkey: ValkeyServer) -> None:
    async with stores(valkey, 0.3, 10) as both:
        for store in both:
            await store.store(QUESTION, ANSWER)
            kept_at = time.monotonic()
            found = await store.find(QUESTION)
            assert found == ANSWER or time.monotonic() - kept_at > 0.25
            await asyncio.sleep(0.35)
            assert await store.find(QUESTION) is None


async def test_cache_limit_applies_per_tenant(valkey: ValkeyServer) -> None:
    async with stores(valkey, 60, 3) as both:
        for store in both:
            other = replace(QUESTION, tenant="umbrella")
            await store.store(other, ANSWER)
            questions = [replace(QUESTION, policy_version=f"p{number}") for number in range(5)]
            for cache_key in questions:
                await store.store(cache_key, ANSWER)
            assert [await store.find(cache_key) for cache_key in questions] == [
                None,
                None,
                ANSWER,
                ANSWER,
                ANSWER,
            ]
            assert await store.find(other) == ANSWER


async def test_answer_under_another_secret_is_unreadable(valkey: ValkeyServer) -> None:
    async with open_valkey(valkey.database(), deadline_seconds=2) as client:
        mine, theirs = (
            ValkeyCacheBackend(client, KeyDerivation(secret), 60, 10)
            for secret in ("one secret", "another one")
        )
        await mine.store(QUESTION, ANSWER)
        assert await theirs.find(QUESTION) is None
        # Even if the ciphertext is copied to the expected key.
        sealed = await client.call("answers", "GET", mine._key(QUESTION))  # type: ignore[arg-type]
        await client.call("answers", "SET", theirs._key(QUESTION), sealed)  # type: ignore[arg-type]
        assert await theirs.find(QUESTION) is None
