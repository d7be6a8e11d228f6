"""Latency of the whole stack on real servers: first token at 200 streams, ack to readable Parquet.

`python benchmarks/stack.py [--streams 200] [--seconds 30] [--thumbs 2000]`. Runs the product's
`make stack` with Kafka, Postgres, Valkey, S3 and Prometheus, two replicas of every service, tracing
and metrics. The instant model server of benchmarks/load replaces the predictor. All answers
together get 1,000 tokens per second, the highest observed rate of an engine on two cores. The
latency of the generators alone with the same number of streams is measured in the same run and
subtracted. Clients, servers and services share the cores.
"""

import argparse
import asyncio
import io
import itertools
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent import futures
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from benchmarks import chat_path
from benchmarks.chat_path import (
    LONG_TOKENS,
    QUESTION,
    Figures,
    Turn,
    first_text,
    many_at_once,
    print_environment,
)
from infra.machine.servers.fleet import assemble, choose_ports
from infra.machine.servers.installation import install
from infra.run.embedded.layout import Layout
from infra.run.stack.layout import StackLayout, metrics_targets, stack_ports
from infra.run.stack.preparation import prepare_stores
from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST, free_port
from infra.run.supervision.supervisor import supervised
from services.chassis.service_identity import SigningChannel, TokenSigner
from training.data.feedback.bucket import Bucket, bucket_location
from training.data.feedback.catalogue import Objects

TOKENS_A_SECOND = 1_000
SPANS = "spans.txt"
Pids = Mapping[str, int]
GOAL_P50_MS, GOAL_P99_MS = 10.0, 20.0
GOAL_READABLE_SECONDS = 60.0
THUMBS_AT_ONCE = 16
POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0
READ_TIMEOUT_SECONDS = 120.0


class Spans(trace_service_pb2_grpc.TraceServiceServicer):
    """Trace collector that counts spans in a file."""

    def __init__(self, count: Path) -> None:
        self._count = count

    def Export(self, request: Any, context: Any) -> Any:
        new = sum(
            len(scope.spans)
            for resource in request.resource_spans
            for scope in resource.scope_spans
        )
        self._count.write_text(str(int(self._count.read_text()) + new))
        return trace_service_pb2.ExportTraceServiceResponse()


def collect(port: int, count: Path) -> None:
    """Run a trace collector until SIGTERM. One thread, as the only writer of the file."""
    count.write_text("0")
    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Spans(count), server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"{HOST}:{port}")
    server.start()
    server.wait_for_termination()


@asynccontextmanager
async def running_stack(
    folder: Path, token_seconds: float, brokers: int
) -> AsyncIterator[tuple[StackLayout, Pids]]:
    """Start servers and services like `make stack`, with instant model server and collector."""
    run = Layout(folder, {**stack_ports(0, 0), "traces": free_port()}, without_quotas=True)
    run.prepare()
    model = chat_path.model_directory(folder)
    ports = choose_ports(folder / "servers", brokers, usual=False)
    stack = StackLayout(run, assemble(folder / "servers", ports, metrics_targets(run.ports)))
    no_output: Callable[[str, str], None] = lambda name, line: None  # noqa: E731 - no output
    fleet = stack.fleet.prepare(install(partial(no_output, "")))
    async with supervised(folder / "servers", ports, fleet, no_output) as servers:
        await prepare_stores(stack, model, lambda line: None)
        words = (
            sys.executable,
            __file__,
            "--collect",
            str(run.ports["traces"]),
            "--count",
            str(folder / SPANS),
        )
        traces = Program("traces", words, {}, run.ports["traces"])
        server = chat_path.model_server(
            chat_path.build_load(folder), run.ports["predictor"], token_seconds
        )
        services = [
            with_benchmark_settings(program, run, server) for program in stack.programs(model)
        ]
        async with supervised(run.state, run.ports, [traces, *services], no_output) as others:
            children = {**servers, **others}
            yield (
                stack,
                {"clients": os.getpid()}
                | {name: child.pid or 0 for name, child in children.items()},
            )


def with_benchmark_settings(
    program: Program, run: Layout, model_server: tuple[str, ...]
) -> Program:
    """Replace the model server and send spans from all other services."""
    if program.name == "predictor":
        return replace(program, command=model_server)
    service = program.name.partition("-")[0].upper()
    environment = {
        **program.environment,
        f"TW_{service}_OTLP_ENDPOINT": f"http://{run.target('traces')}",
    }
    return replace(program, environment=environment)


@asynccontextmanager
async def call_paths(run: Layout, refused: list[str]) -> AsyncIterator[Mapping[str, Turn]]:
    """Yield both calls to a first text: through the gateways by turns, and to the generators alone.

    Refused turns are repeated.
    """
    sampling = chat_pb2.SamplingOverrides(max_tokens=LONG_TOKENS)
    request = chat_pb2.SendMessageRequest(
        input=chat_pb2.UserInput(text=QUESTION), sampling=sampling
    )
    words = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text=QUESTION)]
    generated = generator_pb2.GenerateRequest(
        user_key="bench/user", messages=words, sampling=sampling
    )
    async with AsyncExitStack() as stack:

        async def channels(service: str) -> Sequence[grpc.aio.Channel]:
            targets = [f"{HOST}:{run.ports[name]}" for name in (service, f"{service}_2")]
            return [
                await stack.enter_async_context(grpc.aio.insecure_channel(target))
                for target in targets
            ]

        chats = itertools.cycle(
            [chat_pb2_grpc.ChatServiceStub(channel) for channel in await channels("gateway")]
        )
        signer = TokenSigner("gateway", run.identity_key("gateway"))
        signed: list[Any] = [SigningChannel(each, signer) for each in await channels("generator")]
        directs = itertools.cycle(map(generator_pb2_grpc.GeneratorServiceStub, signed))
        gateway_metadata = key_of(run)
        generator_metadata = (("x-tw-tenant", "bench"), ("x-tw-user", "user"))

        async def through_gateway() -> float:
            while True:
                try:
                    return await first_text(
                        next(chats).SendMessage(request, timeout=120, metadata=gateway_metadata)
                    )
                except grpc.aio.AioRpcError as error:
                    if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                        raise
                    refused.append(error.details() or "")
                    await asyncio.sleep(RETRY_SECONDS)

        async def alone() -> float:
            return await first_text(
                next(directs).Generate(generated, timeout=120, metadata=generator_metadata)
            )

        yield {"gateway": through_gateway, "generator": alone}


def key_of(run: Layout) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {(run.state / 'owner.key').read_text().strip()}"),)


async def readable_after(run: Layout, objects: Objects, thumbs: int) -> tuple[Figures, Figures]:
    """Return the waits for the ack, and from the ack until the event is in a committed object.

    Feedback is sent through the public API.
    """
    async with (
        grpc.aio.insecure_channel(f"{HOST}:{run.ports['gateway']}") as gateway,
        grpc.aio.insecure_channel(f"{HOST}:{run.ports['feedback']}") as log,
    ):
        gateway_metadata = key_of(run)
        answer = await answer_id(chat_pb2_grpc.ChatServiceStub(gateway), gateway_metadata)
        acked: dict[str, float] = {}
        waits: list[float] = []
        feedback = feedback_pb2_grpc.FeedbackServiceStub(gateway)

        async def client(numbers: "itertools.count[int]") -> None:
            while next(numbers) <= thumbs:
                request = feedback_pb2.SubmitFeedbackRequest(
                    message_id=answer, request_id=str(uuid.uuid4())
                )
                request.thumb.up = True
                started = time.perf_counter()
                reply = await feedback.SubmitFeedback(
                    request, timeout=60, metadata=gateway_metadata
                )
                acked[reply.event_id] = time.perf_counter()
                waits.append(acked[reply.event_id] - started)

        numbers = itertools.count(1)
        signed: Any = SigningChannel(log, TokenSigner("operator", run.identity_key("operator")))
        reading = asyncio.create_task(
            readable_times(feedback_pb2_grpc.FeedbackLogServiceStub(signed), objects, thumbs)
        )
        await asyncio.gather(*(client(numbers) for _ in range(THUMBS_AT_ONCE)))
        found = await asyncio.wait_for(reading, READ_TIMEOUT_SECONDS)
    return Figures(waits), Figures([found[event] - at for event, at in acked.items()])


async def answer_id(chat: chat_pb2_grpc.ChatServiceStub, key: Any) -> str:
    """Return the id of an answer for feedback."""
    request = chat_pb2.SendMessageRequest(input=chat_pb2.UserInput(text=QUESTION))
    message_id = ""
    async for event in chat.SendMessage(request, timeout=60, metadata=key):
        message_id = event.message_id or message_id
    return message_id


async def readable_times(log: Any, objects: Objects, events: int) -> Mapping[str, float]:
    """Return the time at which each event became readable, polled ten times per second."""
    found: dict[str, float] = {}
    known: set[str] = set()
    while len(found) < events:
        await asyncio.sleep(POLL_SECONDS)
        listed = await log.ListSegments(
            feedback_pb2.ListSegmentsRequest(stream=feedback_pb2.STREAM_FEEDBACK), timeout=20
        )
        for segment in listed.segments:
            if segment.object_key and segment.object_key not in known:
                known.add(segment.object_key)
                content = await asyncio.to_thread(objects.get, segment.object_key)
                rows = pq.ParquetFile(io.BytesIO(content)).read(["event_id"]).column(0).to_pylist()
                found |= dict.fromkeys(
                    (row for row in rows if row not in found), time.perf_counter()
                )
    return found


def print_readable(acks: Figures, readable: Figures) -> None:
    p50, p99 = (acks.quantile_ms(share) for share in (0.5, 0.99))
    print(f"\n{len(acks.waits)} thumbs through the gateway, {THUMBS_AT_ONCE} at a time")
    print(f"  ack:      p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    p50, p99 = (readable.quantile_ms(share) / 1000 for share in (0.5, 0.99))
    verdict = "reached" if p99 <= GOAL_READABLE_SECONDS else "missed"
    print(
        f"  readable: p50 {p50:.1f} s, p99 {p99:.1f} s after the ack (goal"
        f" {GOAL_READABLE_SECONDS:g} s: {verdict})"
    )


def spent(pids: Pids) -> Mapping[str, float]:
    """Return processor seconds by kind of process, with both replicas together.

    The time of this process excludes its children.
    """
    found = chat_path.cpu_seconds(pids)
    own = {
        **found,
        "clients": found["clients"]
        - sum(spent for name, spent in found.items() if name != "clients"),
    }
    by_kind: dict[str, float] = {}
    for name, seconds in own.items():
        kind = name.partition("-")[0].partition("_")[0]
        by_kind[kind] = by_kind.get(kind, 0.0) + seconds
    return by_kind


async def measure(folder: Path, options: argparse.Namespace) -> None:
    """Start the stack, measure and print."""
    token_seconds = options.streams / TOKENS_A_SECOND

    async def many(turn: Turn) -> Figures:
        return await many_at_once(turn, options.streams, options.seconds, token_seconds)

    async with running_stack(folder, token_seconds, options.brokers) as (stack, pids):
        place = bucket_location(stack.environment().loop_environment)
        assert place
        print_readable(*await readable_after(stack.run, Bucket(place), options.thumbs))
        refused: list[str] = []
        async with call_paths(stack.run, refused) as paths:
            for turn in paths.values():
                await turn()
            alone = await many(paths["generator"])
            before, stages, started = (
                spent(pids),
                chat_path.stage_totals(stack.run),
                time.perf_counter(),
            )
            through_gateway = await many(paths["gateway"])
            after, seconds = spent(pids), time.perf_counter() - started
        print(f"\n{options.streams} streams on two gateways, {len(through_gateway.waits)} turns")
        chat_path.print_added(through_gateway, alone, GOAL_P50_MS, GOAL_P99_MS)
        chat_path.print_stages(stages, chat_path.stage_totals(stack.run))
        # The first turn of each client is warm-up: excluded from the waits, but included in the
        # costs.
        chat_path.print_costs(before, after, len(through_gateway.waits) + options.streams)
        cores = sum(after[name] - before[name] for name in after) / seconds
        print(f"  cores busy, of {os.cpu_count()}:        {cores:.2f}")
    print(f"  refused and repeated: {len(refused)}")
    print(f"\n{int((folder / SPANS).read_text()):,} spans were sent")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=200, help="number of simultaneous answers")
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="seconds with the streams, for each path"
    )
    parser.add_argument(
        "--thumbs", type=int, default=2_000, help="number of events timed until readable"
    )
    parser.add_argument(
        "--brokers", type=int, choices=(1, 3), default=1, help="number of Kafka brokers"
    )
    parser.add_argument("--collect", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.collect:
        collect(options.collect, options.count)
        return
    print_environment()
    with tempfile.TemporaryDirectory(prefix="thumbwheel-bench-") as folder:
        asyncio.run(measure(Path(folder), options))


if __name__ == "__main__":
    main()
