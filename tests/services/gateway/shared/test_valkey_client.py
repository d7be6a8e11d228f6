"""The Valkey client on a real server: reply order, short waits during outages, reconnection."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from valkey.asyncio import Valkey

from services.gateway.shared import StoreUnavailableError
from services.gateway.shared.valkey_client import Script, Use, ValkeyClient, open_valkey
from tests.servers import ValkeyServer
from tests.services.gateway.calls import counter_value, until

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
SECONDS = 2.0


@asynccontextmanager
async def linked(valkey: ValkeyServer, **changes: float) -> AsyncIterator[ValkeyClient]:
    async with open_valkey(
        valkey.database(), **{"deadline_seconds": SECONDS, "probe_seconds": 0.05, **changes}
    ) as client:
        yield client


async def echo(client: ValkeyClient, text: str) -> str:
    reply: bytes = await client.call(Use.TURNS, "ECHO", text)
    return reply.decode()


def states(caplog: pytest.LogCaptureFixture) -> list[tuple[str, object]]:
    """Return the logged changes between available and unavailable."""
    return [
        (record.message, record.fields.get("reason"))  # type: ignore[attr-defined]
        for record in caplog.records
        if record.message.startswith("valkey ")
    ]


async def test_each_caller_gets_its_own_reply_despite_cancelled_callers(
    valkey: ValkeyServer,
) -> None:
    chance = random.Random(7)

    async def ask(client: ValkeyClient, number: int) -> bool:
        await asyncio.sleep(chance.random() / 10)
        return await echo(client, f"text {number}") == f"text {number}"

    async with linked(valkey) as client:
        calls = [asyncio.create_task(ask(client, number)) for number in range(2_000)]
        for call in chance.sample(calls, 700):
            asyncio.get_running_loop().call_later(chance.random() / 10, call.cancel)
        ended = await asyncio.gather(*calls, return_exceptions=True)
    right, cancelled = (
        ended.count(True),
        sum(isinstance(end, asyncio.CancelledError) for end in ended),
    )
    assert right + cancelled == len(calls)
    assert cancelled > 50


async def test_script_is_reloaded_after_a_script_flush(valkey: ValkeyServer) -> None:
    async with linked(valkey) as client:
        assert await client.run(Use.QUOTAS, ADD, ["sum"], 3) == 3
        await client.call(Use.QUOTAS, "SCRIPT", "FLUSH")
        assert await client.run(Use.QUOTAS, ADD, ["sum"], 4) == 7


async def test_killed_server_is_logged_once_and_reconnected(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with linked(valkey) as client:
        assert await echo(client, "here") == "here"
        valkey.kill()
        try:
            for _ in range(5):
                with pytest.raises(StoreUnavailableError):
                    await echo(client, "away")
                await asyncio.sleep(0.1)
            assert counter_value("thumbwheel_gateway_valkey_up", store="valkey") == 0
        finally:
            await asyncio.to_thread(valkey.start)
        await until(lambda: client.connected)
        assert await echo(client, "back") == "back"
        assert counter_value("thumbwheel_gateway_valkey_up", store="valkey") == 1
    assert states(caplog) == [("valkey unavailable", "unreachable"), ("valkey available", None)]


async def test_hanging_server_costs_one_short_wait(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(valkey, deadline_seconds=0.2) as client:
        assert await echo(client, "here") == "here"
        valkey.pause()
        try:
            with pytest.raises(StoreUnavailableError):
                await echo(client, "hangs")
            lost = counter_value("thumbwheel_gateway_valkey_errors_total", use="turns", kind="lost")
            started = time.perf_counter()
            for _ in range(20):
                with pytest.raises(StoreUnavailableError):
                    await echo(client, "not tried")
            assert time.perf_counter() - started < 0.2
            assert (
                counter_value("thumbwheel_gateway_valkey_errors_total", use="turns", kind="lost")
                == lost
            )
        finally:
            valkey.resume()
        await until(lambda: client.connected)
        assert [await echo(client, str(number)) for number in range(3)] == ["0", "1", "2"]
    assert states(caplog)[0] == ("valkey unavailable", "timeout")


async def test_full_server_is_unavailable_until_memory_is_free(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(valkey) as client, Valkey.from_url(valkey.database()) as operator:
        usual = (await operator.config_get("maxmemory"))["maxmemory"]
        await operator.config_set("maxmemory", 1)
        try:
            with pytest.raises(StoreUnavailableError):
                await client.run(Use.QUOTAS, ADD, ["sum"], 1)
            assert not client.connected
        finally:
            await operator.config_set("maxmemory", usual)
        await until(lambda: client.connected)
        assert await client.run(Use.QUOTAS, ADD, ["sum"], 1) == 1
    assert states(caplog)[0] == ("valkey unavailable", "full")


async def test_client_starts_without_a_server_and_connects_later(valkey: ValkeyServer) -> None:
    await asyncio.to_thread(valkey.stop)
    try:
        async with linked(valkey) as client:
            assert not client.connected
            await asyncio.to_thread(valkey.start)
            await until(lambda: client.connected)
            assert await echo(client, "here") == "here"
    finally:
        if not valkey.processes[0].is_running:
            await asyncio.to_thread(valkey.start)


async def test_refused_command_does_not_disconnect(
    valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with linked(valkey) as client:
        await client.call(Use.TURNS, "SET", "text", "a text")
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                await client.call(Use.TURNS, "LPUSH", "text", "a text")
        assert client.connected
    assert [record.message for record in caplog.records] == ["valkey refused a command"]
