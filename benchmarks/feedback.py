"""Acknowledgements of the feedback service with 64 clients, relative to the disk's fdatasync.

`python benchmarks/feedback.py [--seconds 10]`. Rounds of disk alone, group commit alone, the whole
service over gRPC, and a bare grpc.aio server are interleaved in one run on one folder. Only the
ratios are meaningful. A single client process drives the servers and shares their cores, so
events/s is a lower bound.
"""

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import grpc
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from services.chassis.identity import Caller
from services.contracts.identifiers import principal_of
from services.feedback.principals.sealing import DataKey, MasterKey, Sealer
from services.feedback.spool.accept import Acceptance, GroupCommit, NoClaims
from services.feedback.spool.spool import Spool
from services.feedback.wire import extract_feedback_texts, feedback_entry

CLIENTS = 64
ROUNDS = 3
KEY = "the benchmark's own key"
MASTER = "5e" * 32
CALLER = Caller("bench", "user")
METADATA = (("x-tw-tenant", CALLER.tenant), ("x-tw-user", CALLER.user))
SPOOL_BYTES = 1 << 30
BOOT_SECONDS = 60.0


@dataclass(frozen=True)
class Figures:
    """One round: duration, and the wait of each durable event in seconds."""

    seconds: float
    waits: Sequence[float]

    def line(self, name: str) -> str:
        ordered = sorted(self.waits)
        p50, p99 = (
            ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000 for q in (0.5, 0.99)
        )
        rate = len(ordered) / self.seconds
        return f"{name:<28} {rate:>8,.0f}/s   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms"


def event() -> events_pb2.FeedbackEvent:
    """Return a thumb with a reason and a short comment, about 300 bytes."""
    thumb = events_pb2.Thumb(
        up=True, reasons=["clear"], comment="this is what I was looking for, thanks"
    )
    message = events_pb2.FeedbackEvent(
        event_id=str(uuid.uuid4()),
        tenant=CALLER.tenant,
        principal=principal_of(KEY, CALLER),
        conversation_id=str(uuid.uuid4()),
        message_id=str(uuid.uuid4()),
        model_version="bench",
        arm="stable",
        thumb=thumb,
    )
    message.accept_time.GetCurrentTime()
    return message


def disk_alone(folder: Path, seconds: float) -> Figures:
    """Append the bytes of an event and call fdatasync, repeatedly, with one writer.

    This is the limit of the hardware.
    """
    data, waits = feedback_entry(event()).payload, []
    descriptor = os.open(folder / "disk", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    started = time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        waits.append(time.perf_counter() - now)
    os.close(descriptor)
    return Figures(time.perf_counter() - started, waits)


async def clients(send: Callable[[], Awaitable[object]], seconds: float) -> Figures:
    """Run 64 clients; each sends the next event after the previous acknowledgement."""
    waits: list[float] = []
    started = time.perf_counter()

    async def client() -> None:
        while (now := time.perf_counter()) - started < seconds:
            await send()
            waits.append(time.perf_counter() - now)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return Figures(time.perf_counter() - started, waits)


class EmptyLedger:
    """Ledger without committed events."""

    def fingerprints(self, stream: str, event_ids: Sequence[str]) -> Mapping[str, bytes]:
        return {}


class ConstantKey:
    """Key source with one key for all principals, without a database."""

    def get_or_create(self, tenants: Mapping[str, str]) -> Mapping[str, DataKey]:
        return dict.fromkeys(tenants, DataKey(bytes(16), bytes(32)))


async def group_commit_alone(folder: Path, seconds: float) -> Figures:
    """Measure spool and idempotency in this process, without gRPC, sink and ledger."""
    spool = Spool(
        folder / f"spool-{uuid.uuid4()}", max_bytes=SPOOL_BYTES, segment_bytes=SPOOL_BYTES
    )
    sealer = Sealer(
        events_pb2.FeedbackEvent, extract_feedback_texts, ConstantKey(), MasterKey(MASTER)
    )
    commit = GroupCommit(
        Acceptance("feedback", spool, EmptyLedger(), NoClaims(), sealer), lambda records: None
    )
    try:
        return await clients(lambda: commit.append([feedback_entry(event())]), seconds)
    finally:
        await commit.close()
        spool.close()


async def serve_bare(port: int) -> None:
    """Serve acknowledgements without checks and disk, as the limit of client and grpc.aio."""

    async def acknowledge(request: feedback_pb2.RecordFeedbackRequest, context: object) -> object:
        return feedback_pb2.RecordFeedbackResponse(durability=feedback_pb2.DURABILITY_SPOOL)

    handler = grpc.unary_unary_rpc_method_handler(
        acknowledge,
        feedback_pb2.RecordFeedbackRequest.FromString,
        feedback_pb2.RecordFeedbackResponse.SerializeToString,
    )
    name = feedback_pb2.DESCRIPTOR.services_by_name["FeedbackLogService"].full_name
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, {"RecordFeedback": handler})]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


@asynccontextmanager
async def service(
    folder: Path, port: int
) -> AsyncIterator[feedback_pb2_grpc.FeedbackLogServiceStub]:
    """Run the real service with its sink, as in the embedded installation."""
    settings = {
        "PORT": port,
        "METRICS_PORT": 0,
        "PRINCIPAL_KEY": KEY,
        "MASTER_KEY": MASTER,
        "SPOOL_DIRECTORY": folder / "service" / "spool",
        "OBJECT_DIRECTORY": folder / "service" / "objects",
        "DATABASE_URL": f"sqlite:///{folder}/service/ledger.db",
        "MAX_SPOOL_BYTES": SPOOL_BYTES,
    }
    environment = os.environ | {
        f"TW_FEEDBACK_{name}": str(value) for name, value in settings.items()
    }
    async with process([sys.executable, "-m", "services.feedback"], environment, port) as stub:
        yield stub


@asynccontextmanager
async def process(
    command: Sequence[str], environment: Mapping[str, str], port: int
) -> AsyncIterator[feedback_pb2_grpc.FeedbackLogServiceStub]:
    """Run a server and yield a stub after the connection is ready."""
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        command, env=environment, stderr=subprocess.DEVNULL
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), BOOT_SECONDS)
            yield feedback_pb2_grpc.FeedbackLogServiceStub(channel)
    finally:
        process.terminate()
        process.wait()


async def measure(folder: Path, port: int, seconds: float) -> dict[str, list[Figures]]:
    """Measure all parts in interleaved rounds."""
    found: dict[str, list[Figures]] = {
        "fdatasync, one writer": [],
        "group commit, 64 callers": [],
        "service, 64 clients": [],
        "bare grpc.aio, 64 clients": [],
    }
    bare_server = [sys.executable, __file__, "--serve-bare", "--port", str(port + 1)]
    async with service(folder, port) as stub, process(bare_server, os.environ, port + 1) as bare:

        async def send(to: feedback_pb2_grpc.FeedbackLogServiceStub) -> None:
            request = feedback_pb2.RecordFeedbackRequest(event=event())
            await to.RecordFeedback(request, timeout=30, metadata=METADATA)

        await clients(partial(send, stub), 1.0)
        await clients(partial(send, bare), 1.0)
        for _ in range(ROUNDS):
            found["fdatasync, one writer"].append(
                await asyncio.to_thread(disk_alone, folder, seconds)
            )
            found["group commit, 64 callers"].append(await group_commit_alone(folder, seconds))
            found["service, 64 clients"].append(await clients(partial(send, stub), seconds))
            found["bare grpc.aio, 64 clients"].append(await clients(partial(send, bare), seconds))
    return found


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="length of each of the twelve parts"
    )
    parser.add_argument("--port", type=int, default=50956, help="port for the service under test")
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="folder on the disk to measure; default: the temp folder",
    )
    parser.add_argument("--serve-bare", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve_bare:
        sys.exit(asyncio.run(serve_bare(arguments.port)))
    versions = " ".join(
        f"{name} {metadata.version(name)}"
        for name in ("grpcio", "protobuf", "pyarrow", "sqlalchemy")
    )
    print(f"python {platform.python_version()}  {versions}")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},"
        f" {platform.platform()}"
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = asyncio.run(measure(Path(folder), arguments.port, arguments.seconds))
    for name, rounds in found.items():
        for number, figures in enumerate(rounds, start=1):
            print(figures.line(f"{name} {number}"))
    rates = {
        name: statistics.median(len(f.waits) / f.seconds for f in rounds)
        for name, rounds in found.items()
    }
    disk, _, whole, bare = rates.values()
    print(f"events acknowledged per fdatasync that the disk could do alone: {whole / disk:.2f}")
    print(f"of what a bare server answers to the same client: {whole / bare:.2f}")


if __name__ == "__main__":
    main()
