"""Answers shown again: only the same question, only at temperature 0, only to the same tenant, and
never what was cut or judged.
"""

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

from services.chassis.errors import from_rpc
from services.gateway.answer_cache import CachedAnswer, CacheKey, LocalCacheBackend
from services.gateway.events import Usage
from services.gateway.generation import Selected
from services.gateway.request import Message, Role, Sampling, Task
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
    """A house that keeps answers, and no experiment runs."""
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
    # An answer is kept a moment after its end.
    await until(lambda: counter_value("thumbwheel_turns_running") == 0)
    return events


async def test_the_same_question_gets_the_same_answer_without_the_model_and_says_so(
    kept: GatewayUnderTest,
) -> None:
    kept_before = counter_value("thumbwheel_gateway_cached_answers_total", result="kept")
    first, again = await ask(kept), await ask(kept, key=kept.other_key)
    # Shown again it does not grow younger.
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


async def test_another_tenant_never_gets_it(kept: GatewayUnderTest) -> None:
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
async def test_a_question_that_differs_in_anything_is_another_one(
    kept: GatewayUnderTest, change: dict[str, Any]
) -> None:
    await ask(kept)
    changed = await ask(kept, **change)
    assert not changed[0].started.cached
    assert generated(kept) == 2
    again = await ask(kept, **change)
    assert again[0].started.cached


async def test_what_went_before_is_part_of_the_question(kept: GatewayUnderTest) -> None:
    history = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_SYSTEM, text="Be brief.")]
    await ask(kept)
    user_input = chat_pb2.UserInput(text="What is it?", history=history)
    request = chat_pb2.SendMessageRequest(input=user_input, sampling=GREEDY)
    events = await collect(kept.chat.SendMessage(request, timeout=10, metadata=kept.metadata()))
    assert not events[0].started.cached


@pytest.mark.parametrize("temperature", [None, 0.01, 1])
async def test_only_temperature_0_is_kept(
    kept: GatewayUnderTest, temperature: float | None
) -> None:
    sampling = chat_pb2.SamplingOverrides(temperature=temperature)
    for _ in range(2):
        assert not (await kept.ask(sampling=sampling))[0].started.cached
    assert generated(kept) == 2


async def test_a_new_version_or_policy_answers_for_itself(kept: GatewayUnderTest) -> None:
    await ask(kept)
    kept.fakes.generator.stable = "nano-9"
    assert (await ask(kept))[0].started.model_version == "nano-9"
    kept.fakes.guardrail.policy_version = "policy-2"
    assert not (await ask(kept))[0].started.cached
    assert generated(kept) == 3


async def test_while_an_experiment_runs_only_a_pinned_version_is_certain(
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


async def test_another_answer_to_the_same_message_is_written_anew(kept: GatewayUnderTest) -> None:
    first = await ask(kept)
    request = chat_pb2.SendMessageRequest(
        regenerate=chat_pb2.Regenerate(message_id=first[0].message_id), sampling=GREEDY
    )
    events = await collect(kept.chat.SendMessage(request, timeout=10, metadata=kept.metadata()))
    assert not events[0].started.cached


async def test_what_the_guard_touched_is_never_kept(kept: GatewayUnderTest) -> None:
    for deltas in (["It is ", SECRET], ["Fine. ", f"{BAD_WORD}."]):
        kept.fakes.generator.deltas = deltas
        for _ in range(2):
            assert not (await ask(kept, deltas[0]))[0].started.cached
    assert generated(kept) == 4
    for _ in range(2):
        assert not (await ask(kept, FORBIDDEN))[0].started.cached


async def test_what_was_cut_is_never_kept(kept: GatewayUnderTest) -> None:
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


async def test_the_input_guard_judges_a_question_that_has_an_answer_too(
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


async def test_by_default_nothing_is_kept(tmp_path: Path) -> None:
    async with run_gateway(tmp_path) as gateway:
        gateway.fakes.generator.candidate = ""
        for _ in range(2):
            assert not (await gateway.ask(sampling=GREEDY))[0].started.cached


async def test_gateways_share_answers_through_valkey_sealed_and_answer_without_it(
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
    "acme", STABLE, False, "p", Task.CHAT, Sampling(temperature=0), (Message(Role.USER, "hi"),)
)
ANSWER = CachedAnswer("hello", Selected(STABLE, "stable", 1.0, Task.CHAT, 0.0, 0.9), Usage(7, 4))


@asynccontextmanager
async def stores(valkey: ValkeyServer, seconds: float, entries: int) -> AsyncIterator[list[Any]]:
    url = valkey.database()
    async with open_valkey(url, deadline_seconds=2) as client:
        yield [
            LocalCacheBackend(seconds, entries),
            ValkeyCacheBackend(client, KeyDerivation("a secret"), seconds, entries),
        ]


async def test_an_answer_comes_back_as_it_was_and_only_for_a_while(valkey: ValkeyServer) -> None:
    async with stores(valkey, 0.3, 10) as both:
        for store in both:
            await store.store(QUESTION, ANSWER)
            kept_at = time.monotonic()
            found = await store.find(QUESTION)
            assert found == ANSWER or time.monotonic() - kept_at > 0.25
            await asyncio.sleep(0.35)
            assert await store.find(QUESTION) is None


async def test_a_tenant_has_so_many_answers_and_takes_no_others_place(valkey: ValkeyServer) -> None:
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


async def test_an_answer_under_another_secret_is_none(valkey: ValkeyServer) -> None:
    async with open_valkey(valkey.database(), deadline_seconds=2) as client:
        mine, theirs = (
            ValkeyCacheBackend(client, KeyDerivation(secret), 60, 10)
            for secret in ("one secret", "another one")
        )
        await mine.store(QUESTION, ANSWER)
        assert await theirs.find(QUESTION) is None
        # Even if somebody puts it where they look.
        sealed = await client.call("answers", "GET", mine._key(QUESTION))  # type: ignore[arg-type]
        await client.call("answers", "SET", theirs._key(QUESTION), sealed)  # type: ignore[arg-type]
        assert await theirs.find(QUESTION) is None
