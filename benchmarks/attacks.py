"""Latency of a bystander during attacks, beside a control with the same bytes to an idle server.

`python benchmarks/attacks.py [--seconds 8] [--only NAME ...]`. The services are real, the model
server answers at once (benchmarks/chat_path.py). One user chats, one turn after another, with a
quiet machine, during the control, and during the attack. A sender in a process of its own sends
the bytes of the attack, at the same pace in both cases: in the control to a server that reads and
ignores them, in the attack to the gateway. So the ratio of attack and control is the effect on the
services, without the cost of sending on the same processors. All attacks run twice: without quotas,
and with those of the chart for the attacker. Everything stays on loopback, and each attack is
bounded in requests and time.
"""

import argparse
import asyncio
import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import uvloop
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc

from benchmarks.chat_path import (
    QUESTION,
    SHORT_TOKENS,
    WARM_UP_TURNS,
    Figures,
    first_text,
    model_directory,
    print_environment,
    ready,
    running,
)
from infra.run.embedded.layout import UNLIMITED_QUOTAS, Layout, free_ports
from infra.run.supervision.ports import HOST, free_port
from services.chassis.identity import Caller
from services.gateway.identity.authentication import mint, new_secret
from services.gateway.store.database import open_database
from services.gateway.store.keys import SqlKeyStore
from tests.support.http2 import (
    INITIAL_WINDOW_SIZE,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
    grpc_message,
    raw_connection,
)

CHECK = b"/grpc.health.v1.Health/Check"
LIST = b"/thumbwheel.chat.v1.ChatService/ListConversations"
SEND = b"/thumbwheel.chat.v1.ChatService/SendMessage"
TIMEOUT = (b"grpc-timeout", b"60S")
MAX_WINDOW = 2**31 - 1
START_SECONDS = 1.5
# A turn every few milliseconds would exhaust the quotas of a person, so that the tenant has none.
BYSTANDER = Caller("bystanders", "bystander")
SENTENCE = "My neighbour asked about the weather in the mountains and the price of tea. "


@dataclass(frozen=True)
class Target:
    """Ports of the attacked server, or of the idle one, and the key of an ordinary user."""

    http: int
    grpc: int
    key: str

    @property
    def bearer(self) -> bytes:
        return f"Bearer {self.key}".encode()


async def unfinished_health_checks(target: Target) -> None:
    """Open eight connections with 256 unfinished health checks each, without a key."""
    await hold_calls(target, 8, 256, CHECK, grpc_message(b"")[:-1], [TIMEOUT])


async def unread_health_checks(target: Target) -> None:
    """Open 2,080 connections with one health check each whose answer is not read, without a key."""
    await hold_calls(target, 2_080, 1, CHECK, grpc_message(b""), [TIMEOUT])


async def unread_answers(target: Target) -> None:
    """Open nine connections with 240 calls whose answers are not read, with a key."""
    metadata = [TIMEOUT, (b"authorization", target.bearer)]
    await hold_calls(target, 9, 240, LIST, grpc_message(b""), metadata)


async def half_sent_messages(target: Target) -> None:
    """Open four connections with 64 messages of which the end is missing, with a key."""
    metadata = [TIMEOUT, (b"authorization", target.bearer)]
    await hold_calls(target, 4, 64, SEND, grpc_message(bytes(60_000))[:-1], metadata)


async def hold_calls(
    target: Target,
    connections: int,
    streams: int,
    path: bytes,
    data: bytes,
    metadata: list[tuple[bytes, bytes]],
) -> None:
    async def hold() -> None:
        async with raw_connection(target.grpc, response_window=0) as connection:
            for _ in range(streams):
                await connection.start_call(path, metadata, data)
            await asyncio.Event().wait()

    await asyncio.gather(*(hold() for _ in range(connections)))


async def many_items(target: Target) -> None:
    """Send 300,000 empty items of a history over gRPC, twice a second, with a key."""
    content = b"\x12\x00" * 300_000
    size = len(content)
    head = bytes((0x1A, size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127))
    metadata = [TIMEOUT, (b"authorization", target.bearer)]
    async with raw_connection(target.grpc) as connection:
        while True:
            await connection.start_call(SEND, metadata, grpc_message(head + content))
            await asyncio.sleep(0.5)


async def slow_heads(target: Target) -> None:
    """Open 200 connections with an unfinished head, and open them again after a disconnect."""

    async def hold() -> None:
        while True:
            reader, writer = await asyncio.open_connection(HOST, target.http)
            writer.write(b"GET / HTTP/1.1\r\nx-slow: ")
            await reader.read()
            writer.close()

    await asyncio.gather(*(hold() for _ in range(200)))


async def unknown_keys(target: Target) -> None:
    """Send 100 requests a second, each with another unknown key."""
    requests = (
        request("GET", "/api/account", f"Bearer {new_secret()}".encode()) for _ in itertools.count()
    )
    await send_requests(target.http, requests, 100)


async def calls_without_a_turn(target: Target) -> None:
    """Send 250 reads and erasures a second, with a key."""
    read = request("GET", "/api/conversations", target.bearer)
    erase = request("POST", "/api/erasure", target.bearer)
    await send_requests(target.http, itertools.cycle((read, read, read, erase)), 250)


async def json_items(target: Target) -> None:
    """Send ten bodies a second of 60,000 items, with a key."""
    body = b'{"input":{"text":"a","history":[' + b",".join([b"{}"] * 60_000) + b"]}}"
    post = request("POST", "/api/messages", target.bearer, body)
    await send_requests(target.http, itertools.repeat(post), 10)


async def long_histories(target: Target) -> None:
    """Send a distinct history of 130,000 characters each second, with a key."""

    def body(number: int) -> bytes:
        texts = [f"{number} {each} {SENTENCE * 10}"[:640] for each in range(200)]
        history = [{"role": "ROLE_USER", "text": text} for text in texts]
        return json.dumps({"input": {"text": "Go on.", "history": history}}).encode()

    requests = (
        request("POST", "/api/messages", target.bearer, body(number))
        for number in itertools.count()
    )
    await send_requests(target.http, requests, 1)


async def hard_texts(target: Target) -> None:
    """Send five texts a second that a quadratic pattern reads 8,000 times, with a key.

    The enhancer corrects the line in front and leaves the rest alone; the guard reads all of it.
    """
    bodies = (
        json.dumps({"input": {"text": f"What is this:\n{'a' * 7_900} ~{number}"}}).encode()
        for number in itertools.count()
    )
    requests = (request("POST", "/api/messages", target.bearer, body) for body in bodies)
    await send_requests(target.http, requests, 5)


ATTACKS: Mapping[str, Callable[[Target], Coroutine[Any, Any, None]]] = {
    each.__name__: each
    for each in (
        unfinished_health_checks,
        unread_health_checks,
        unread_answers,
        half_sent_messages,
        slow_heads,
        unknown_keys,
        calls_without_a_turn,
        json_items,
        many_items,
        long_histories,
        hard_texts,
    )
}


def request(method: str, path: str, authorization: bytes, body: bytes = b"") -> bytes:
    """Return an HTTP request as bytes."""
    return b"\r\n".join(
        (
            f"{method} {path} HTTP/1.1".encode(),
            b"Host: 127.0.0.1",
            b"Connection: close",
            b"Authorization: " + authorization,
            b"Content-Length: %d" % len(body),
            b"",
            body,
        )
    )


async def send_requests(port: int, requests: Iterable[bytes], a_second: float) -> None:
    """Send requests at a pace, each on a connection that stays open until the answer has come."""

    async def send(data: bytes) -> None:
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(data)
            await reader.read()
            writer.close()

    running: set[asyncio.Task[None]] = set()
    for data in requests:
        task = asyncio.create_task(send(data))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(1 / a_second)


async def serve_idle(port: int) -> None:
    """Read and ignore all bytes, with open windows of HTTP/2."""

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            data = await reader.read(2**16)
            if data.startswith(PREFACE[:16]):
                settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, MAX_WINDOW)
                update = struct.pack(">I", MAX_WINDOW - 2**16)
                writer.write(frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, update))
            while data:
                data = await reader.read(2**16)
        writer.close()

    server = await asyncio.start_server(ignore, HOST, port, backlog=2048)
    await server.serve_forever()


@contextmanager
def program(*words: str) -> Iterator[None]:
    """Run this file with other arguments during the block."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.attacks", *words])
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@asynccontextmanager
async def attacking(name: str, target: Target) -> AsyncIterator[None]:
    """Run an attack during the block, from the moment of its first bytes."""
    words = ("--send", name, "--to", str(target.http), str(target.grpc), "--key", target.key)
    with program(*words):
        await asyncio.sleep(START_SECONDS)
        yield


Turn = Callable[[], Awaitable[float]]


async def chatting(turn: Turn, seconds: float) -> Figures:
    """Return the waits until the first text of successive turns."""
    waits, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        waits.append(await turn())
    return Figures(waits)


async def measure(names: Iterable[str], layout: Layout, idle_port: int, seconds: float) -> None:
    """Measure all attacks and print a row for each."""
    attacker, key = await new_keys(layout, Caller("default", "attacker"), BYSTANDER)
    attacked = Target(layout.ports["http"], layout.ports["gateway"], attacker)
    idle = Target(idle_port, idle_port, attacker)
    sampling = chat_pb2.SamplingOverrides(max_tokens=SHORT_TOKENS)
    message = chat_pb2.SendMessageRequest(
        input=chat_pb2.UserInput(text=QUESTION), sampling=sampling
    )
    metadata = (("authorization", f"Bearer {key}"),)
    async with grpc.aio.insecure_channel(layout.target("gateway")) as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel)

        async def turn() -> float:
            return await first_text(chat.SendMessage(message, timeout=60, metadata=metadata))

        for _ in range(WARM_UP_TURNS):
            await turn()
        print("first text of a bystander, p50 / p99 in ms\n")
        print(f"{'attack':26}{'quiet':>16}{'control':>16}{'attack':>16}{'attack / control':>20}")
        for name in names:
            quiet = await chatting(turn, seconds / 2)
            async with attacking(name, idle):
                control = await chatting(turn, seconds)
            async with attacking(name, attacked):
                attack = await chatting(turn, seconds)
            ratios = [attack.quantile_ms(q) / control.quantile_ms(q) for q in (0.5, 0.99)]
            cells = "".join(f"{figures_of(each):>16}" for each in (quiet, control, attack))
            print(f"{name:26}{cells}{f'{ratios[0]:.2f} / {ratios[1]:.2f}':>20}", flush=True)


async def new_keys(layout: Layout, *callers: Caller) -> list[str]:
    """Create an ordinary key for each caller."""
    minted = [mint(caller) for caller in callers]
    async with open_database(f"sqlite+aiosqlite:///{layout.state / 'keys.db'}") as engine:
        for _, key in minted:
            await SqlKeyStore(engine).add(key)
    return [secret for secret, _ in minted]


def figures_of(figures: Figures) -> str:
    return f"{figures.quantile_ms(0.5):.1f} / {figures.quantile_ms(0.99):.1f}"


async def run(layout: Layout, options: argparse.Namespace) -> None:
    await ready([port for name, port in layout.ports.items() if not name.endswith("metrics")])
    idle_port = free_port()
    with program("--idle", str(idle_port)):
        await ready([idle_port])
        await measure(options.only or ATTACKS, layout, idle_port, options.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of each measurement")
    parser.add_argument("--only", nargs="*", choices=list(ATTACKS), help="default: all attacks")
    parser.add_argument("--send", choices=list(ATTACKS), help=argparse.SUPPRESS)
    parser.add_argument("--to", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--key", help=argparse.SUPPRESS)
    parser.add_argument("--idle", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.send:
        http_port, grpc_port = options.to
        uvloop.run(ATTACKS[options.send](Target(http_port, grpc_port, options.key)))
        return
    if options.idle:
        uvloop.run(serve_idle(options.idle))
        return
    print_environment()
    os.environ["TW_GATEWAY_QUOTA_OVERRIDES"] = json.dumps(
        {BYSTANDER.tenant: UNLIMITED_QUOTAS["gateway"]}
    )
    # Each turn of the bystander is a conversation.
    os.environ["TW_SESSION_MAX_CONVERSATIONS_PER_USER"] = "0"
    os.environ["TW_SESSION_MAX_CONVERSATIONS_PER_TENANT"] = "0"
    for without_quotas in (True, False):
        print(f"\n{'without' if without_quotas else 'with'} quotas of the attacker")
        with tempfile.TemporaryDirectory(prefix="thumbwheel-bench-") as folder:
            ports = {**free_ports(), "bare": free_port()}
            layout = Layout(Path(folder), ports, without_quotas=without_quotas)
            layout.prepare()
            with running(layout, model_directory(Path(folder))):
                uvloop.run(run(layout, options))


if __name__ == "__main__":
    main()
