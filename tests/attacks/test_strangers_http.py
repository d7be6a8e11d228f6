"""Attacks without a key on the public HTTP port."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from services.gateway.http.server import MAX_UNAUTHENTICATED_CONNECTIONS
from services.gateway.identity.authentication import new_secret
from tests.attacks.attacked import BOTH_QUOTAS, Attacked
from tests.journeys.client import Client
from tests.support.http1 import raw_request

PATHS = (
    "/../../etc/passwd",
    "//etc/passwd",
    "/%2e%2e/%2e%2e/keys.db",
    "/..%2f..%2fkeys.db",
    "/..%5c..%5ckeys.db",
    "/%2e%2e%2fowner.key",
    "/assets/../../../keys.db",
    "/assets/%252e%252e/%252e%252e/keys.db",
    "/index.html/../owner.key",
    "/api/loop/report/..%2f..%2fowner.key",
    "/api/../api/conversations",
    "/health/../api/conversations",
    "/api%2fconversations",
    "/api/conversations;/health",
    "/api/conversations%00/health",
    "//api/conversations",
    "/API/conversations",
    "http://127.0.0.1/api/conversations",
    "*",
    "/%00",
)
HEAD = b"Host: 127.0.0.1\r\nConnection: close\r\n"
SMUGGLED = b"0\r\n\r\nGET /api/conversations HTTP/1.1\r\n" + HEAD + b"\r\n"
# Requests that two parsers could read differently.
AMBIGUOUS = {
    "length and chunks": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n" + SMUGGLED,
    "two lengths": b"Content-Length: 6\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
    "unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n" + SMUGGLED,
    "signed length": b"Content-Length: +6\r\n\r\n" + SMUGGLED,
    "zero byte": b"A: b\0c\r\n\r\n",
    "folded header": b"A: b\r\n c\r\nContent-Length: 0\r\n\r\n",
}
ORIGIN = b"Origin: http://evil.example\r\n"
SLOW_HEADS, SLOW_BODIES = 100, 100


@pytest.mark.parametrize("path", PATHS)
async def test_path_reaches_no_file_and_no_route_without_a_key(
    attacked_system: Attacked, path: str
) -> None:
    answer = await raw_request(
        attacked_system.port, f"GET {path} HTTP/1.1\r\n".encode() + HEAD + b"\r\n"
    )
    assert answer.status in (400, 401, 404)
    assert b'"error"' in answer.body or answer.status == 400
    for secret in (attacked_system.stack.owner_key.encode(), b"SQLite format", b"root:"):
        assert secret not in answer.body


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_ambiguous_request_has_one_answer_without_data(
    attacked_system: Attacked, name: str
) -> None:
    data = b"POST /api/messages HTTP/1.1\r\n" + HEAD + AMBIGUOUS[name]
    answer = await raw_request(attacked_system.port, data)
    assert answer.status in (400, 401)
    assert b"HTTP/1.1" not in answer.body
    assert b"conversations" not in answer.body


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE", "CONNECT", "PUT"])
async def test_foreign_origin_gets_no_permission(attacked_system: Attacked, method: str) -> None:
    """A website of the attacker can neither read answers nor send requests with a body."""
    ask = (
        b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n"
    )
    head = f"{method} /api/conversations HTTP/1.1\r\n".encode()
    answer = await raw_request(attacked_system.port, head + HEAD + ORIGIN + ask + b"\r\n")
    assert answer.status in (400, 401, 405)
    assert b"access-control-" not in answer.head


async def test_foreign_host_gets_no_data_and_stays_in_no_answer(attacked_system: Attacked) -> None:
    """DNS rebinding and poisoned caches: the name of the host is used nowhere."""
    for path in (b"/", b"/api/account", b"/missing"):
        head = b"GET " + path + b" HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n"
        answer = await raw_request(attacked_system.port, head + ORIGIN + b"\r\n")
        assert answer.status == {b"/": 200, b"/api/account": 401, b"/missing": 404}[path]
        assert b"evil.example" not in answer.head + answer.body


async def test_metrics_are_not_public(attacked_system: Attacked) -> None:
    answer = await raw_request(attacked_system.port, b"GET /metrics HTTP/1.1\r\n" + HEAD + b"\r\n")
    assert answer.status == 404


async def test_unfinished_requests_of_strangers_leave_room_for_others(attacked: Attacked) -> None:
    """Slow heads and slow bodies: a body without a key is refused before its receipt."""
    async with AsyncExitStack() as held:
        refused = 0
        for number in range(SLOW_HEADS + SLOW_BODIES):
            reader, writer = await asyncio.open_connection("127.0.0.1", attacked.port)
            held.callback(writer.close)
            if number < SLOW_HEADS:
                writer.write(b"POST /api/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nx-slow: ")
                continue
            writer.write(
                b"POST /api/messages HTTP/1.1\r\n" + HEAD + b"Content-Length: 200000\r\n\r\n"
            )
            refused += b" 401 " in await asyncio.wait_for(reader.readline(), 30)
        assert refused == SLOW_BODIES
        await asyncio.to_thread(attacked.check)


async def test_silent_connections_do_not_lock_out_others(attacked: Attacked) -> None:
    """Connections without a request occupied all open files of the gateway."""
    files = Path(f"/proc/{attacked.stack.pid_of('gateway')}/fd")
    before = len(list(files.iterdir()))
    async with AsyncExitStack() as held:
        for _ in range(MAX_UNAUTHENTICATED_CONNECTIONS + 200):
            _, writer = await asyncio.open_connection("127.0.0.1", attacked.port)
            held.callback(writer.close)
        await asyncio.to_thread(attacked.check)
        async with asyncio.timeout(30):
            while len(list(files.iterdir())) - before > MAX_UNAUTHENTICATED_CONNECTIONS + 50:
                await asyncio.sleep(0.05)


@pytest.mark.long
async def test_unfinished_heads_are_disconnected(attacked: Attacked) -> None:
    connections = [
        await asyncio.open_connection("127.0.0.1", attacked.port) for _ in range(SLOW_HEADS)
    ]
    for _, writer in connections:
        writer.write(b"GET / HTTP/1.1\r\nx-slow: ")
    async with asyncio.timeout(60):
        ends = await asyncio.gather(*(reader.read() for reader, _ in connections))
    assert ends == [b""] * SLOW_HEADS
    for _, writer in connections:
        writer.close()


@BOTH_QUOTAS
async def test_flood_of_unknown_keys_does_not_lock_out_known_keys(attacked: Attacked) -> None:
    """Attack S-15: each unknown key is a query. The new key was not checked before the flood."""
    known = attacked.stack.make_keys("late")[0]
    statuses: Counter[int] = Counter()
    url = f"{attacked.stack.http}/api/account"

    async def knock(http: aiohttp.ClientSession) -> None:
        async with http.get(url, headers={"authorization": f"Bearer {new_secret()}"}) as response:
            statuses[response.status] += 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=100)) as http:
        flood = [asyncio.create_task(knock(http)) for _ in range(300)]
        status, account = await asyncio.to_thread(
            Client(attacked.stack.http, known).call, "GET", "/api/account"
        )
        assert (status, account["user"]) == (200, "late")
        await asyncio.to_thread(attacked.check)
        await asyncio.gather(*flood)
    # A server may also refuse them for their rate, but may not accept any.
    assert not {status for status in statuses if status < 400}
