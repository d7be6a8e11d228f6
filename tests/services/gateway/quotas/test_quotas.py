"""Quotas: admission, rejection and retry times, in one gateway, in two, and without Valkey."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import UnavailableError
from services.chassis.identity import Caller
from services.contracts.chat import SamplingOverrides
from services.gateway.background_tasks import background_tasks
from services.gateway.quotas.quota import (
    Allowance,
    Holder,
    Limit,
    LocalQuotaStore,
    QuotaDecision,
    QuotaRequest,
    Window,
)
from services.gateway.quotas.quotas import OutagePolicy, QuotaError, QuotaRules, Quotas
from services.gateway.shared.quota_store import ValkeyQuotaStore
from services.gateway.shared.valkey_client import open_valkey
from services.gateway.turns.request import TurnRequest, typed_message
from tests.servers import ValkeyServer
from tests.services.gateway.calls import counter_value, until
from tests.services.gateway.two_gateways import everything

ADA, BOB, NAMESAKE = Caller("acme", "ada"), Caller("acme", "bob"), Caller("umbrella", "ada")
FREE = Allowance()
QUESTION = TurnRequest(typed_message("What is it?"), sampling=SamplingOverrides(max_tokens=96))
QUESTION_TOKENS = 4 + 96

Admit = Callable[[QuotaRequest], Awaitable[QuotaDecision]]


def ask(
    caller: Caller = ADA, tokens: int = 100, user: Allowance = FREE, tenant: Allowance = FREE
) -> QuotaRequest:
    needs = {Limit.REQUESTS: 1, Limit.TURNS: 1, Limit.TOKENS: tokens}
    return QuotaRequest(
        random.randbytes(8).hex(), caller, needs, {Holder.USER: user, Holder.TENANT: tenant}
    )


def event(caller: Caller = ADA, user: Allowance = FREE, tenant: Allowance = FREE) -> QuotaRequest:
    return QuotaRequest(
        random.randbytes(8).hex(),
        caller,
        {Limit.FEEDBACK: 1},
        {Holder.USER: user, Holder.TENANT: tenant},
    )


class Books:
    """The same calls for both quota stores."""

    def __init__(
        self, admit: Admit, settle: Callable[[QuotaRequest, int], Awaitable[None]]
    ) -> None:
        self.admit, self.settle = admit, settle

    async def refusal(self, asked: QuotaRequest) -> tuple[Holder, Limit] | None:
        return (await self.admit(asked)).refused


@pytest.fixture(params=["local", "valkey"])
async def store(request: pytest.FixtureRequest, valkey: ValkeyServer) -> AsyncIterator[Books]:
    if request.param == "local":
        local = LocalQuotaStore()

        async def admit(asked: QuotaRequest) -> QuotaDecision:
            return local.admit(asked)

        async def settle(asked: QuotaRequest, used: int) -> None:
            local.settle(asked, used)

        yield Books(admit, settle)
        return
    async with open_valkey(valkey.database(), deadline_seconds=2) as client:
        shared = ValkeyQuotaStore(client, lease_seconds=30)
        yield Books(shared.admit, shared.settle)


async def test_requests_above_the_limit_are_rejected_until_the_minute_has_passed(
    store: Books,
) -> None:
    allowance = Allowance(requests_per_minute=3)
    first = await store.admit(ask(user=allowance))
    assert first.usage[Holder.USER, Limit.REQUESTS].used == 1
    assert [await store.refusal(ask(user=allowance)) for _ in range(2)] == [None, None]
    refused = await store.admit(ask(user=allowance))
    assert refused.refused == (Holder.USER, Limit.REQUESTS)
    assert 55 < refused.retry_seconds <= 62
    assert 55 < refused.usage[Holder.USER, Limit.REQUESTS].reset_seconds <= 62
    assert await store.refusal(ask(BOB, user=allowance)) is None


async def test_tokens_are_reserved_and_later_settled_by_usage(store: Books) -> None:
    allowance = Allowance(tokens_per_day=250)
    first, second = ask(user=allowance), ask(user=allowance)
    assert [await store.refusal(first), await store.refusal(second)] == [None, None]
    refused = await store.admit(ask(user=allowance))
    assert refused.refused == (Holder.USER, Limit.TOKENS)
    assert 86_000 < refused.retry_seconds < 88_500
    await store.settle(first, 10)
    await store.settle(first, 10)
    admitted = await store.admit(ask(user=allowance))
    assert (admitted.refused, admitted.usage[Holder.USER, Limit.TOKENS].used) == (None, 210)
    await store.settle(second, 500)
    assert await store.refusal(ask(tokens=1, user=allowance)) == (Holder.USER, Limit.TOKENS)


async def test_ended_turns_free_the_concurrency_limit(store: Books) -> None:
    allowance = Allowance(turns_at_once=1)
    first = ask(user=allowance)
    assert await store.refusal(first) is None
    refused = await store.admit(ask(user=allowance))
    assert (refused.refused, refused.retry_seconds) == ((Holder.USER, Limit.TURNS), 1)
    await store.settle(first, 0)
    assert await store.refusal(ask(user=allowance)) is None


async def test_feedback_has_a_limit_of_its_own(store: Books) -> None:
    allowance = Allowance(requests_per_minute=1, turns_at_once=1, feedback_per_minute=2)
    assert await store.refusal(ask(user=allowance)) is None
    events = [await store.admit(event(user=allowance)) for _ in range(3)]
    assert [decision.refused for decision in events] == [None, None, (Holder.USER, Limit.FEEDBACK)]
    assert [decision.usage[Holder.USER, Limit.FEEDBACK].used for decision in events] == [1, 2, 2]
    assert 55 < events[-1].retry_seconds <= 62
    assert await store.refusal(event(BOB, user=allowance)) is None
    assert await store.refusal(event(NAMESAKE, user=allowance, tenant=allowance)) is None


async def test_erasures_are_counted_for_an_hour(store: Books) -> None:
    """Finding N-13: each erasure removes the cached answers of the tenant."""
    limits = {Holder.USER: Allowance(erasures_per_hour=1), Holder.TENANT: FREE}
    first = QuotaRequest("", ADA, {Limit.ERASURES: 1}, limits)
    assert await store.refusal(first) is None
    refused = await store.admit(first)
    assert refused.refused == (Holder.USER, Limit.ERASURES)
    assert 3_400 < refused.retry_seconds <= 3_720
    assert refused.usage[Holder.USER, Limit.ERASURES].used == 1
    assert await store.refusal(replace(first, caller=BOB)) is None


async def test_feedback_limit_of_a_tenant_covers_all_its_users(store: Books) -> None:
    allowance = Allowance(feedback_per_minute=2)
    found = [await store.refusal(event(caller, tenant=allowance)) for caller in (ADA, BOB, ADA)]
    assert found == [None, None, (Holder.TENANT, Limit.FEEDBACK)]


@pytest.mark.parametrize(
    "allowance",
    [Allowance(requests_per_minute=2), Allowance(tokens_per_day=200), Allowance(turns_at_once=2)],
)
async def test_limit_of_a_shared_key_covers_its_end_users_only(
    store: Books, allowance: Allowance
) -> None:
    def ask_through(key_user: str, user: str, tenant: Allowance = FREE) -> QuotaRequest:
        limits = {Holder.USER: FREE, Holder.KEY: allowance, Holder.TENANT: tenant}
        return replace(ask(Caller("acme", user, key_user)), allowances=limits)

    first = ask_through("app", "end-1")
    found = [await store.refusal(each) for each in (first, ask_through("app", "end-2"))]
    assert found == [None, None]
    holder, _ = await store.refusal(ask_through("app", "end-3")) or (None, None)
    assert holder is Holder.KEY
    assert await store.refusal(ask_through("other", "end-3")) is None
    assert await store.refusal(ask(Caller("acme", "app"))) is None
    # The settled usage counts for the key as well.
    await store.settle(first, 0)
    is_free = allowance.requests_per_minute == 0
    assert (await store.refusal(ask_through("app", "end-3")) is None) == is_free
    # Valkey counts for a tenant with a limit only.
    last = [ask_through("third", "end-4", tenant=Allowance(requests_per_minute=1)) for _ in "12"]
    found = [await store.refusal(each) for each in last]
    assert found[-1] == (Holder.TENANT, Limit.REQUESTS)


@pytest.mark.parametrize(
    "allowance",
    [Allowance(requests_per_minute=2), Allowance(tokens_per_day=200), Allowance(turns_at_once=2)],
)
async def test_tenant_limit_covers_all_its_users_and_no_other_tenant(
    store: Books, allowance: Allowance
) -> None:
    assert [await store.refusal(ask(caller, tenant=allowance)) for caller in (ADA, BOB)] == [
        None,
        None,
    ]
    holder, _ = await store.refusal(ask(tenant=allowance)) or (None, None)
    assert holder is Holder.TENANT
    assert await store.refusal(ask(NAMESAKE, tenant=allowance)) is None


async def test_rejection_by_one_limit_takes_nothing_from_the_others(store: Books) -> None:
    allowance = Allowance(requests_per_minute=10, tokens_per_day=150)
    for _ in range(5):
        await store.admit(ask(user=allowance))
    last = await store.admit(ask(tokens=50, user=allowance))
    assert (last.refused, last.usage[Holder.USER, Limit.REQUESTS].used) == (None, 2)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 400),
        st.integers(1, 60),
        st.sampled_from(["begin", "begin", "end", "settle"]),
    ),
    max_size=60,
)


@settings(max_examples=150)
@given(steps=STEPS, requests=st.integers(0, 4), tokens=st.integers(0, 120))
def test_no_window_exceeds_its_limit_and_waits_are_at_most_a_step_late(
    steps: list[tuple[int, int, str]], requests: int, tokens: int
) -> None:
    clock = [0.0]
    windows = {Limit.REQUESTS: Window(1_000, 100), Limit.TOKENS: Window(2_000, 200)}
    store = LocalQuotaStore(lambda: clock[0] / 1000, windows)
    allowance = Allowance(requests_per_minute=requests, tokens_per_day=tokens)
    admitted: list[tuple[int, QuotaRequest, int]] = []  # time, request, settled tokens
    running: list[int] = []  # indices of earlier requests
    for wait_ms, wanted, kind in steps:
        clock[0] += wait_ms
        now = int(clock[0])
        if kind != "begin" and running:
            place = running.pop(0)
            at, asked, counts = admitted[place]
            used = 0 if kind == "end" else counts // 2
            store.settle(asked, used)
            admitted[place] = (at, asked, used)
            continue
        asked = ask(tokens=wanted, user=allowance)
        decision = store.admit(asked)
        if decision.refused is None:
            running.append(len(admitted))
            admitted.append((now, asked, wanted))
        for limit, maximum, need in ((Limit.REQUESTS, requests, 1), (Limit.TOKENS, tokens, wanted)):
            span, step = windows[limit].span_ms, windows[limit].step_ms
            sizes = [(at, 1 if limit is Limit.REQUESTS else counts) for at, _, counts in admitted]
            within = sum(size for at, size in sizes if at > now - span)
            assert not maximum or within <= maximum
            if decision.refused == (Holder.USER, limit):
                assert sum(size for at, size in sizes if at > now - span - step) + need > maximum


@dataclass(frozen=True)
class Admitted:
    """An admitted turn: times before and after the call, and its earliest end."""

    called: float
    admitted_at: float
    ended: float
    used: int


WINDOWS = {
    Limit.REQUESTS: Window(600, 30),
    Limit.TOKENS: Window(1_200, 60),
    Limit.FEEDBACK: Window(600, 30),
}
LEASE_SECONDS = 1.0
ALLOWANCE = Allowance(requests_per_minute=25, tokens_per_day=3_000, turns_at_once=6)


RULES = QuotaRules(ALLOWANCE, FREE)


@asynccontextmanager
async def shared_book(url: str) -> AsyncIterator[ValkeyQuotaStore]:
    async with open_valkey(url, deadline_seconds=2, probe_seconds=0.05) as client:
        yield ValkeyQuotaStore(client, LEASE_SECONDS, WINDOWS)


@asynccontextmanager
async def sharing(
    url: str, outage_policy: OutagePolicy = OutagePolicy.LOCAL, lease_seconds: float = LEASE_SECONDS
) -> AsyncIterator[Quotas]:
    async with shared_book(url) as store:
        quotas = Quotas(RULES, store, outage_policy, lease_seconds)
        async with background_tasks(quotas.serve):
            yield quotas
            await quotas.flush()


async def visits(
    gateways: list[Quotas], doomed: ValkeyQuotaStore, seed: int, seconds: float
) -> list[Admitted]:
    """Run one client with turns at both gateways.

    Some turns use a gateway that dies at once, so their reservations are neither renewed nor
    settled.
    """
    chance, found = random.Random(seed), []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        called, used, lasts = (
            time.monotonic(),
            chance.randrange(QUESTION_TOKENS + 1),
            chance.random() / 20,
        )
        if chance.random() < 0.05:
            decision = await doomed.admit(RULES.request_for(ADA, QUESTION))
            if not decision.refused:
                found.append(Admitted(called, time.monotonic(), time.monotonic(), 0))
            continue
        try:
            reservation = await chance.choice(gateways).admit(ADA, QUESTION)
        except QuotaError:
            await asyncio.sleep(chance.random() / 50)
            continue
        admitted_at = time.monotonic()
        await asyncio.sleep(lasts)
        found.append(Admitted(called, admitted_at, time.monotonic(), used))
        reservation.settle(used)
    return found


def most_within(admitted: list[Admitted], seconds: float, size: Callable[[Admitted], int]) -> int:
    """Return the maximum amount certainly admitted within any window."""
    return max(
        sum(
            size(other)
            for other in admitted
            if other.called >= one.called and other.admitted_at <= one.called + seconds
        )
        for one in admitted
    )


def most_at_once(admitted: list[Admitted]) -> int:
    return max(
        sum(other.admitted_at <= one.admitted_at < other.ended for other in admitted)
        for one in admitted
    )


@pytest.mark.parametrize("seed", range(2))
async def test_two_gateways_never_exceed_the_limit_and_leak_no_reservation(
    valkey: ValkeyServer, seed: int
) -> None:
    url = valkey.database()
    async with sharing(url) as one, sharing(url) as other, shared_book(url) as doomed:
        clients = [
            visits([one, other], doomed, 100 * seed + number, seconds=2.0) for number in range(12)
        ]
        admitted = [visit for visits in await asyncio.gather(*clients) for visit in visits]
    assert most_within(admitted, 0.6, lambda _: 1) <= ALLOWANCE.requests_per_minute
    assert most_within(admitted, 1.2, lambda visit: visit.used) <= ALLOWANCE.tokens_per_day
    assert most_at_once(admitted) <= ALLOWANCE.turns_at_once
    # Guard against a store that rejects everything.
    assert len(admitted) > ALLOWANCE.turns_at_once
    await asyncio.sleep(LEASE_SECONDS + 1.2 + 0.1)
    assert "quota/" not in await everything(url)


async def test_reservations_expire_only_after_the_loss_of_their_gateway(
    valkey: ValkeyServer,
) -> None:
    url, full = valkey.database(), ALLOWANCE.turns_at_once
    async with sharing(url) as living:
        async with sharing(url) as killed:
            for _ in range(full - 1):
                await killed.admit(ADA, QUESTION)
        kept = await living.admit(ADA, QUESTION)
        with pytest.raises(QuotaError) as caught:
            await living.admit(ADA, QUESTION)
        assert caught.value.reason == "TOO_MANY_TURNS"
        await asyncio.sleep(2 * LEASE_SECONDS)
        again = [await living.admit(ADA, QUESTION) for _ in range(full - 1)]
        with pytest.raises(QuotaError):
            await living.admit(ADA, QUESTION)
        for reservation in (kept, *again):
            reservation.settle(0)


async def test_reservation_lost_by_a_flush_is_restored(
    valkey: ValkeyServer,
) -> None:
    url = valkey.database()
    async with sharing(url) as quotas, open_valkey(url, deadline_seconds=2) as client:
        reservations = [await quotas.admit(ADA, QUESTION) for _ in range(ALLOWANCE.turns_at_once)]
        await client.call("turns", "FLUSHDB")  # type: ignore[arg-type]
        await asyncio.sleep(LEASE_SECONDS)
        with pytest.raises(QuotaError) as caught:
            await quotas.admit(ADA, QUESTION)
        assert caught.value.reason == "TOO_MANY_TURNS"
        for reservation in reservations:
            reservation.settle(0)


@pytest.fixture
def rules() -> QuotaRules:
    return QuotaRules(
        Allowance(requests_per_minute=2), FREE, {"umbrella": (FREE, FREE)}, reply_tokens=50
    )


async def test_error_has_the_limit_and_the_retry_time(rules: QuotaRules) -> None:
    quotas = Quotas(rules)
    for _ in range(2):
        await quotas.admit(ADA, QUESTION)
    with pytest.raises(QuotaError) as caught:
        await quotas.admit(ADA, QUESTION)
    error = caught.value
    assert (error.reason, error.limit) == ("RATE_LIMITED", "2 requests per minute of a user")
    assert 55 < error.retry_seconds <= 62
    assert (error.levels[Limit.REQUESTS].limit, error.levels[Limit.REQUESTS].remaining) == (
        2,
        0,
    )


async def test_request_above_the_whole_limit_has_no_retry_time() -> None:
    quotas = Quotas(QuotaRules(Allowance(tokens_per_day=99), FREE))
    with pytest.raises(QuotaError) as caught:
        await quotas.admit(ADA, QUESTION)
    assert (caught.value.reason, caught.value.retry_seconds) == ("TOKEN_QUOTA_EXCEEDED", 0)


async def test_readers_of_a_user_and_of_a_tenant_are_limited_and_leave() -> None:
    quotas = Quotas(QuotaRules(Allowance(readers_at_once=2), Allowance(readers_at_once=3)))
    with quotas.reading(ADA), quotas.reading(NAMESAKE), quotas.reading(BOB):
        with quotas.reading(ADA):
            refusals = [refused_reader(quotas, caller) for caller in (ADA, BOB)]
        assert refusals == ["2 concurrent readers of turns of a user"] + [
            "3 concurrent readers of turns of the tenant"
        ]
        with quotas.reading(BOB):
            pass
    assert not quotas._readers


def refused_reader(quotas: Quotas, caller: Caller) -> str:
    with pytest.raises(QuotaError) as caught, quotas.reading(caller):
        pass
    assert (caught.value.reason, caught.value.retry_seconds) == ("TOO_MANY_READERS", 1)
    return caught.value.limit


async def test_tenant_can_have_its_own_limits(rules: QuotaRules) -> None:
    quotas = Quotas(rules)
    for _ in range(5):
        await quotas.admit(NAMESAKE, QUESTION)


def test_prompt_estimate_includes_the_whole_request(rules: QuotaRules) -> None:
    history = [chat_pb2.HistoryMessage(text=text) for text in ("Be brief.", "é" * 3)]
    asked = rules.request_for(ADA, TurnRequest(typed_message("What is it?"), history))
    assert asked.tokens == 4 + 3 + 2 + 50


@pytest.fixture
async def away(valkey: ValkeyServer) -> AsyncIterator[ValkeyServer]:
    """Kill the server for the test and restart it afterwards."""
    yield valkey
    if not valkey.processes[0].is_running:
        await asyncio.to_thread(valkey.start)


async def test_local_policy_continues_with_local_counts_during_an_outage(
    away: ValkeyServer,
) -> None:
    before = counter_value("thumbwheel_gateway_quota_away_total", policy="local")
    async with sharing(away.database()) as quotas:
        for _ in range(ALLOWANCE.turns_at_once - 1):
            await quotas.admit(ADA, QUESTION)
        away.kill()
        await quotas.admit(ADA, QUESTION)
        with pytest.raises(QuotaError) as caught:
            await quotas.admit(ADA, QUESTION)
    assert caught.value.reason == "TOO_MANY_TURNS"
    assert counter_value("thumbwheel_gateway_quota_away_total", policy="local") == before + 2


async def test_refuse_policy_rejects_during_an_outage_and_admits_afterwards(
    away: ValkeyServer,
) -> None:
    async with sharing(away.database(), outage_policy=OutagePolicy.REFUSE) as quotas:
        await quotas.admit(ADA, QUESTION)
        away.kill()
        with pytest.raises(UnavailableError) as caught:
            await quotas.admit(ADA, QUESTION)
        assert (caught.value.reason, caught.value.retry_seconds) == ("QUOTA_STORE_AWAY", 1)
        await asyncio.to_thread(away.start)

        async def admitted() -> bool:
            try:
                (await quotas.admit(ADA, QUESTION)).settle(0)
            except UnavailableError:
                return False
            return True

        async with asyncio.timeout(5):
            while not await admitted():
                await asyncio.sleep(0.05)


async def test_usage_during_a_short_outage_is_settled_afterwards(
    away: ValkeyServer,
) -> None:
    url = away.database()
    async with sharing(url, lease_seconds=20) as quotas:
        reservation = await quotas.admit(ADA, QUESTION)
        away.pause()
        reservation.settle(7)
        await asyncio.sleep(0.1)
        away.resume()
        await until(lambda: not quotas._ended)
        assert "turns" not in await everything(url)
