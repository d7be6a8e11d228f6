"""Latency added by the chat path before the first token, with real services and an instant model.

`python benchmarks/chat_path.py [--turns 200] [--seconds 10]`. The latency of the generator alone is
measured in the same run and subtracted. With 50 streams, each stream gets 20 tokens per second
(1,000 in all, the highest observed rate of an engine on two cores) for four seconds, so 50 streams
are active while new ones start. Every piece of the model ends with its word. Otherwise the guard
would also wait for the next token, adding model time.

A bare grpc.aio call to an idle process is timed during the turns. A turn needs five successive
calls before its first text (gateway, enhancer, session in parallel with the input guard, generator,
output guard).
"""

import argparse
import asyncio
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
import uvloop
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc
from tokenizers import Tokenizer, models, pre_tokenizers

from infra.machine.servers.go import find_go
from infra.run.embedded.layout import Layout, free_ports, programs
from infra.run.supervision.ports import HOST, free_port
from services.chassis.service_identity import SigningChannel, TokenSigner

VERSION = "instant-1"
QUESTION = "hw do i lern python its very hard"
STREAMS = (1, 50)
GOAL_P50_MS, GOAL_P99_MS = 5.0, 15.0
SHORT_TOKENS, LONG_TOKENS = 4, 80
TOKEN_SECONDS = 0.05
BOOT_SECONDS = 90.0
WARM_UP_TURNS = 20
PROBE_SECONDS = 0.05
HOPS = 5
STAGES = ("enhance", "begin", "claim", "guard_input", "generate", "guard_output")

Turn = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Figures:
    """Waiting times until the first text, in seconds."""

    waits: Sequence[float]

    def quantile_ms(self, share: float) -> float:
        ordered = sorted(self.waits)
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def model_directory(folder: Path) -> Path:
    """Write a model directory for session and generator: tokenizer, context length, manifest."""
    directory = folder / VERSION
    directory.mkdir()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"max_position_embeddings": 8192}))
    (directory / "manifest.json").write_text(
        json.dumps({"format": 1, "kind": "model", "version": VERSION})
    )
    return directory


def build_load(folder: Path) -> Path:
    """Build the Go program of benchmarks/load with client and instant model server.

    Raises:
        subprocess.CalledProcessError: the build failed.
    """
    program = folder / "load"
    command = [str(find_go()), "build", "-buildvcs=false", "-o", str(program), "."]
    subprocess.run(command, cwd=Path(__file__).parent / "load", check=True)
    return program


def model_server(load: Path, port: int, token_seconds: float) -> tuple[str, ...]:
    """Return the command of a model server with an immediate first token.

    Later tokens follow at a fixed interval.
    """
    return (
        str(load),
        "serve",
        "--address",
        f"{HOST}:{port}",
        "--version",
        VERSION,
        "--pace",
        f"{token_seconds}s",
    )


def bare_server(port: int) -> None:
    """Serve calls without any work: grpc.aio as used by the services, without the chassis."""

    class IdleServicer(enhancer_pb2_grpc.EnhancerServiceServicer):
        async def Enhance(
            self, request: enhancer_pb2.EnhanceRequest, context: object
        ) -> enhancer_pb2.EnhanceResponse:
            return enhancer_pb2.EnhanceResponse(text=request.text)

    async def serve() -> None:
        server = grpc.aio.server()
        enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server(IdleServicer(), server)
        server.add_insecure_port(f"{HOST}:{port}")
        await server.start()
        await server.wait_for_termination()

    uvloop.run(serve())


@asynccontextmanager
async def bare_calls(port: int) -> AsyncIterator[list[float]]:
    """Yield the durations of bare calls, repeated in the background, in seconds."""
    seconds: list[float] = []
    request = enhancer_pb2.EnhanceRequest(text=QUESTION)

    async def probe(stub: enhancer_pb2_grpc.EnhancerServiceStub) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            started = time.perf_counter()
            await stub.Enhance(request, timeout=60)
            seconds.append(time.perf_counter() - started)

    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        probing = asyncio.create_task(probe(enhancer_pb2_grpc.EnhancerServiceStub(channel)))
        try:
            yield seconds
        finally:
            probing.cancel()


Processes = Mapping[str, "subprocess.Popen[bytes]"]


@contextmanager
def running(layout: Layout, model: Path) -> Iterator[Processes]:
    """Run the real services as separate processes, with the instant model server."""
    started: dict[str, subprocess.Popen[bytes]] = {}
    commands: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
        program.name: (tuple(program.command), dict(program.environment))
        for program in programs(layout, model)
    }
    commands["predictor"] = (
        model_server(build_load(layout.state), layout.ports["predictor"], TOKEN_SECONDS),
        {},
    )
    commands["bare"] = ((sys.executable, __file__, "--serve-bare", str(layout.ports["bare"])), {})
    with ExitStack() as stack:
        log = stack.enter_context((layout.state / "log.txt").open("w"))
        for name, (command, environment) in commands.items():
            started[name] = subprocess.Popen(command, env={**os.environ, **environment}, stderr=log)
            stack.callback(started[name].wait, 30)
            stack.callback(started[name].terminate)
        yield started


def cpu_seconds(pids: Mapping[str, int]) -> Mapping[str, float]:
    """Return processor time by name, including running children, from Linux' /proc."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, spent = {}, {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            parents[int(entry.parent.name)] = int(fields[1])
            spent[int(entry.parent.name)] = (int(fields[11]) + int(fields[12])) / ticks

    def of(pid: int) -> float:
        return spent.get(pid, 0.0) + sum(
            of(child) for child, parent in parents.items() if parent == pid
        )

    return {name: of(pid) for name, pid in pids.items()}


async def ready(ports: Sequence[int]) -> None:
    """Wait until all ports accept connections."""
    async with asyncio.timeout(BOOT_SECONDS):
        for port in ports:
            while True:
                try:
                    _, writer = await asyncio.open_connection(HOST, port)
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    await writer.wait_closed()
                    break


@asynccontextmanager
async def calls(layout: Layout, tokens: int) -> AsyncIterator[Mapping[str, Turn]]:
    """Yield both calls to a first text: through the gateway, and to the generator alone."""
    key = (layout.state / "owner.key").read_text().strip()
    async with (
        grpc.aio.insecure_channel(layout.target("gateway")) as gateway,
        grpc.aio.insecure_channel(layout.target("generator")) as generator,
    ):
        chat = chat_pb2_grpc.ChatServiceStub(gateway)
        signer = TokenSigner("gateway", layout.identity_key("gateway"))
        signed: Any = SigningChannel(generator, signer)
        direct = generator_pb2_grpc.GeneratorServiceStub(signed)
        sampling = chat_pb2.SamplingOverrides(max_tokens=tokens)
        gateway_request = chat_pb2.SendMessageRequest(
            input=chat_pb2.UserInput(text=QUESTION), sampling=sampling
        )
        words = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text=QUESTION)]
        generator_request = generator_pb2.GenerateRequest(
            user_key="bench/user", messages=words, sampling=sampling
        )
        gateway_metadata = (("authorization", f"Bearer {key}"),)
        generator_metadata = (("x-tw-tenant", "bench"), ("x-tw-user", "user"))

        async def whole() -> float:
            return await first_text(
                chat.SendMessage(gateway_request, timeout=60, metadata=gateway_metadata)
            )

        async def generator_alone() -> float:
            return await first_text(
                direct.Generate(generator_request, timeout=60, metadata=generator_metadata)
            )

        yield {"gateway": whole, "generator": generator_alone}


async def first_text(
    call: AsyncIterable[chat_pb2.ChatEvent | generator_pb2.GenerateEvent],
) -> float:
    """Return the seconds until the first text; the answer is read to its end."""
    started, waited = time.perf_counter(), 0.0
    async for event in call:
        if not waited and event.WhichOneof("event") == "text_delta":
            waited = time.perf_counter() - started
    return waited


async def one_after_another(turn: Turn, turns: int) -> Figures:
    return Figures([await turn() for _ in range(turns)])


async def many_at_once(
    turn: Turn, streams: int, seconds: float, token_seconds: float = TOKEN_SECONDS
) -> Figures:
    """Run clients that start a new answer after each answer.

    Start times are spread, and the first answer of each client is excluded as warm-up.
    """
    waits: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        await asyncio.sleep(number * LONG_TOKENS * token_seconds / streams)
        await turn()
        while time.perf_counter() < end:
            waits.append(await turn())

    await asyncio.gather(*(client(number) for number in range(streams)))
    return Figures(waits)


def stage_totals(layout: Layout) -> Mapping[str, tuple[float, float]]:
    """Return sum of seconds and count per stage from the gateway's metrics."""
    address = f"http://{HOST}:{layout.ports['gateway_metrics']}/metrics"
    with urllib.request.urlopen(address) as response:
        text = response.read().decode()
    found = re.findall(r'thumbwheel_turn_stage_seconds_(sum|count)\{stage="(\w+)"\} (\S+)', text)
    values = {(kind, stage): float(value) for kind, stage, value in found}
    return {
        stage: (values.get(("sum", stage), 0.0), values.get(("count", stage), 0.0))
        for stage in STAGES
    }


@dataclass(frozen=True)
class Meters:
    """Metrics and processor times of the services at one moment."""

    stages: Mapping[str, tuple[float, float]]
    cpu: Mapping[str, float]


async def measure(
    layout: Layout, processes: Processes, streams: int, options: argparse.Namespace
) -> None:
    """Measure and print one row of the result."""

    async def figures(turn: Turn) -> Figures:
        if streams > 1:
            return await many_at_once(turn, streams, options.seconds)
        return await one_after_another(turn, options.turns)

    def meters() -> Meters:
        return Meters(
            stage_totals(layout),
            cpu_seconds({name: process.pid for name, process in processes.items()}),
        )

    async with calls(layout, SHORT_TOKENS if streams == 1 else LONG_TOKENS) as paths:
        for turn in paths.values():
            await one_after_another(turn, WARM_UP_TURNS if streams == 1 else 1)
        alone = await figures(paths["generator"])
        before = meters()
        async with bare_calls(layout.ports["bare"]) as bare:
            whole = await figures(paths["gateway"])
        print_row(streams, whole, alone, before, meters())
        hop = Figures(bare)
        p50, p99 = (hop.quantile_ms(share) for share in (0.5, 0.99))
        print(
            f"  bare call in parallel:  p50 {p50:.2f} ms, p99 {p99:.2f} ms; {HOPS} of them"
            f" {HOPS * p50:.2f} ms"
        )


def print_row(streams: int, whole: Figures, alone: Figures, before: Meters, after: Meters) -> None:
    turns = len(whole.waits)
    print(f"\n{streams} stream{'s' * (streams > 1)}, {turns} turns")
    print_added(whole, alone, GOAL_P50_MS, GOAL_P99_MS)
    print_stages(before.stages, after.stages)
    print_costs(before.cpu, after.cpu, turns)


def print_stages(
    before: Mapping[str, tuple[float, float]], after: Mapping[str, tuple[float, float]]
) -> None:
    means = []
    for stage in STAGES:
        seconds, count = (after[stage][part] - before[stage][part] for part in (0, 1))
        means.append(f"{stage} {1000 * seconds / max(count, 1):.2f}")
    print(f"  mean wait, ms:          {', '.join(means)}")


def print_costs(before: Mapping[str, float], after: Mapping[str, float], turns: int) -> None:
    spent = {name: 1000 * (after[name] - before[name]) / turns for name in after}
    costs = ", ".join(
        f"{name} {ms:.1f}" for name, ms in sorted(spent.items(), key=lambda cost: -cost[1])
    )
    print(f"  processor ms a turn:    {costs}")


def print_added(whole: Figures, alone: Figures, goal_p50_ms: float, goal_p99_ms: float) -> None:
    for share, name, goal in ((0.5, "p50", goal_p50_ms), (0.99, "p99", goal_p99_ms)):
        total, model = whole.quantile_ms(share), alone.quantile_ms(share)
        verdict = "reached" if total - model <= goal else "missed"
        print(
            f"  {name}: first text {total:7.2f} ms, generator alone {model:7.2f} ms,"
            f" added {total - model:7.2f} ms (goal {goal:g}: {verdict})"
        )


def print_environment() -> None:
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("grpcio", "uvloop", "protobuf")
    )
    load = os.getloadavg()[0]
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, load {load:.1f}, Python"
        f" {platform.python_version()}, {versions}"
    )


async def run(layout: Layout, processes: Processes, options: argparse.Namespace) -> None:
    await ready([port for name, port in layout.ports.items() if not name.endswith("metrics")])
    for streams in STREAMS:
        await measure(layout, processes, streams, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=200, help="number of successive turns")
    parser.add_argument("--seconds", type=float, default=10.0, help="seconds with 50 streams")
    parser.add_argument("--serve-bare", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_bare:
        bare_server(options.serve_bare)
        return
    print_environment()
    with tempfile.TemporaryDirectory(prefix="thumbwheel-bench-") as folder:
        ports = {**free_ports(), "bare": free_port()}
        layout = Layout(Path(folder), ports, without_quotas=True)
        layout.prepare()
        with running(layout, model_directory(Path(folder))) as processes:
            uvloop.run(run(layout, processes, options))


if __name__ == "__main__":
    main()
