"""Latency added by sharing through Valkey: two gateways on the same services, alternating.

`python benchmarks/shared_turns.py [--turns 300] [--seconds 8]`. Every turn has a request_id. The
gateway with Valkey thus admits the turn by the shared quota, claims it, and publishes every event.
Services, model and questions are those of benchmarks/chat_path.py. Further figures are the delay
from the first text here to the same text in another gateway, and from a cancel there to the end
here.
"""

import argparse
import asyncio
import functools
import os
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import uvloop
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc

from benchmarks.chat_path import (
    LONG_TOKENS,
    QUESTION,
    SHORT_TOKENS,
    Figures,
    first_text,
    many_at_once,
    model_directory,
    print_environment,
    ready,
    running,
)
from infra.machine.servers import installation
from infra.machine.servers.valkey import Valkey
from infra.run.embedded.layout import Layout, free_ports, programs
from infra.run.supervision.ports import HOST, distinct_free_ports, free_port

GOAL_ADDED_MS, GOAL_CANCEL_MS = 1.0, 100.0
STREAMS = 50
WARM_UP_TURNS = 30
REMOTE_TURNS = 50
Chats = Mapping[str, Any]


@contextmanager
def sharing_gateways(layout: Layout, model: Path) -> Iterator[Mapping[str, int]]:
    """Run two more gateways on the same services with one Valkey; yield their gRPC ports."""
    server = Valkey(layout.state / "valkey", free_port())
    (valkey,) = server.prepare(installation.find_installed().valkey)
    (gateway,) = [program for program in programs(layout, model) if program.name == "gateway"]
    started = [subprocess.Popen(valkey.command, stdout=subprocess.DEVNULL)]
    ports = {}
    try:
        with (layout.state / "sharing.txt").open("w") as log:
            for name in ("with Valkey", "another"):
                grpc_port, http_port, metrics_port = distinct_free_ports(3)
                ports[name] = grpc_port
                changes = {
                    "PORT": grpc_port,
                    "HTTP_PORT": http_port,
                    "METRICS_PORT": metrics_port,
                    "VALKEY_URL": server.url(),
                    "VALKEY_SECRET": "a secret of the benchmark",
                }
                environment = {f"TW_GATEWAY_{key}": str(value) for key, value in changes.items()}
                started.append(
                    subprocess.Popen(
                        gateway.command,
                        env={**os.environ, **gateway.environment, **environment},
                        stderr=log,
                    )
                )
        yield {**ports, "valkey": server.port}
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


class Client:
    """Client of several gateways, by name."""

    def __init__(self, layout: Layout, chats: Chats) -> None:
        key = (layout.state / "owner.key").read_text().strip()
        self._chats, self._metadata = chats, (("authorization", f"Bearer {key}"),)

    def send(self, gateway: str, tokens: int) -> Any:
        """Start a turn through the named gateway."""
        request = chat_pb2.SendMessageRequest(
            input=chat_pb2.UserInput(text=QUESTION),
            sampling=chat_pb2.SamplingOverrides(max_tokens=tokens),
            request_id=uuid.uuid4().hex,
        )
        return self._chats[gateway].SendMessage(request, timeout=60, metadata=self._metadata)

    async def wait(self, gateway: str, tokens: int) -> float:
        """Return the seconds until the first text."""
        return await first_text(self.send(gateway, tokens))

    def resume(self, gateway: str, message_id: str) -> Any:
        """Follow the same turn through another gateway."""
        request = chat_pb2.ResumeMessageRequest(message_id=message_id)
        return self._chats[gateway].ResumeMessage(request, timeout=60, metadata=self._metadata)

    async def cancel(self, gateway: str, message_id: str) -> bool:
        """Cancel a turn and return True if it was running."""
        request = chat_pb2.CancelMessageRequest(message_id=message_id)
        response = await self._chats[gateway].CancelMessage(
            request, timeout=60, metadata=self._metadata
        )
        return bool(response.cancelled)


@asynccontextmanager
async def client_of(layout: Layout, ports: Mapping[str, int]) -> AsyncIterator[Client]:
    """Open channels to all three gateways."""
    targets = {
        "alone": layout.target("gateway"),
        **{name: f"{HOST}:{port}" for name, port in ports.items()},
    }
    channels = {
        name: grpc.aio.insecure_channel(target)
        for name, target in targets.items()
        if name != "valkey"
    }
    try:
        yield Client(
            layout,
            {name: chat_pb2_grpc.ChatServiceStub(channel) for name, channel in channels.items()},
        )
    finally:
        for channel in channels.values():
            await channel.close()


async def measure_alternating(client: Client, turns: int) -> dict[str, Figures]:
    """Measure single turns, alternating between both gateways."""
    waits: dict[str, list[float]] = {"alone": [], "with Valkey": []}
    for number in range(turns + WARM_UP_TURNS):
        for name, found in waits.items():
            wait = await client.wait(name, SHORT_TOKENS)
            if number >= WARM_UP_TURNS:
                found.append(wait)
    return {name: Figures(found) for name, found in waits.items()}


async def measure_many(client: Client, seconds: float) -> dict[str, Figures]:
    """Measure many streams at once, alternating between both gateways, twice."""
    waits: dict[str, list[float]] = {"alone": [], "with Valkey": []}
    for _ in range(2):
        for name, found in waits.items():
            wait = functools.partial(client.wait, name, LONG_TOKENS)
            figures = await many_at_once(wait, STREAMS, seconds)
            found += figures.waits
    return {name: Figures(found) for name, found in waits.items()}


async def measure_remote(client: Client) -> tuple[Figures, Figures]:
    """Return the delay of events in another gateway, and of a cancel through it."""
    later, cancelled = [], []
    for _ in range(REMOTE_TURNS):
        call = client.send("with Valkey", LONG_TOKENS)
        seen: dict[int, float] = {}
        message_id = ""
        async for event in call:
            message_id = event.message_id
            break
        there = asyncio.create_task(_times(client.resume("another", message_id)))
        async for event in call:
            seen[event.sequence] = time.perf_counter()
            if len(seen) == 5:
                break
        started = time.perf_counter()
        assert await client.cancel("another", message_id)
        async for event in call:
            seen[event.sequence] = time.perf_counter()
        cancelled.append(time.perf_counter() - started)
        arrived = await there
        later += [arrived[sequence] - at for sequence, at in seen.items()]
    return Figures(later), Figures(cancelled)


async def _times(call: Any) -> dict[int, float]:
    return {event.sequence: time.perf_counter() async for event in call}


def print_comparison(title: str, figures: Mapping[str, Figures]) -> None:
    alone, shared = figures["alone"], figures["with Valkey"]
    print(f"\n{title}, {len(alone.waits)} and {len(shared.waits)} turns")
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        before, after = alone.quantile_ms(share), shared.quantile_ms(share)
        reached = "reached" if after - before <= GOAL_ADDED_MS else "missed"
        verdict = f" (goal {GOAL_ADDED_MS:g}: {reached})"
        print(
            f"  {name}: first text {before:7.2f} ms alone, {after:7.2f} ms with Valkey,"
            f" added {after - before:6.2f} ms{verdict if share == 0.5 else ''}"
        )


async def run(layout: Layout, ports: Mapping[str, int], options: argparse.Namespace) -> None:
    await ready([port for name, port in layout.ports.items() if not name.endswith("metrics")])
    await ready(list(ports.values()))
    async with client_of(layout, ports) as client:
        print_comparison("1 stream", await measure_alternating(client, options.turns))
        print_comparison(f"{STREAMS} streams", await measure_many(client, options.seconds))
        later, cancelled = await measure_remote(client)
        p50, p99 = (later.quantile_ms(share) for share in (0.5, 0.99))
        print(f"\ndelay of an event in another gateway: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        p50, p99 = (cancelled.quantile_ms(share) for share in (0.5, 0.99))
        verdict = "reached" if p99 <= GOAL_CANCEL_MS else "missed"
        print(
            f"time from a cancel in another gateway to the end of the stream: p50 {p50:.1f} ms,"
            f" p99 {p99:.1f} ms"
            f" (goal {verdict})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=300, help="number of successive turns")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="seconds with many streams, four times"
    )
    options = parser.parse_args()
    print_environment()
    with tempfile.TemporaryDirectory(prefix="thumbwheel-bench-") as folder:
        free = {**free_ports(), "bare": free_port()}
        layout = Layout(Path(folder), free, without_quotas=True)
        layout.prepare()
        model = model_directory(Path(folder))
        with running(layout, model), sharing_gateways(layout, model) as ports:
            uvloop.run(run(layout, ports, options))


if __name__ == "__main__":
    main()
