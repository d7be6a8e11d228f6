"""Turns of the session service with 32 clients, on SQLite and on Postgres.

`python -m benchmarks.session [--seconds 8]`. Rounds on both databases and the disk's fdatasync are
interleaved in one run on one folder; only the ratios are meaningful. A single client process drives
the service and shares its cores with Postgres, so turns/s is a lower bound. SQLite does not sync
the commits of a turn, Postgres does (docs/decisions/session-storage.md).
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
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from infra.machine.servers.installation import find_installed
from infra.machine.servers.postgres import Postgres
from infra.run.supervision.ports import free_port

CLIENTS = 32
ROUNDS = 3
TURNS_A_CONVERSATION = 10
BOOT_SECONDS = 60.0
QUESTION, ANSWER = (
    "why is the sky blue and not green? " * 4,
    "because the air scatters short waves more. " * 20,
)


@dataclass(frozen=True)
class Figures:
    """One round: the wait of each call that begins and each that finishes a turn, in seconds."""

    seconds: float
    begins: Sequence[float]
    finishes: Sequence[float]
    processor_seconds: float = 0.0

    @property
    def rate(self) -> float:
        return len(self.finishes) / self.seconds

    @property
    def p99_ms(self) -> float:
        return _quantile([b + f for b, f in zip(self.begins, self.finishes, strict=True)], 0.99)

    def line(self, name: str) -> str:
        begin, finish = (
            " / ".join(f"{_quantile(waits, q):.1f}" for q in (0.5, 0.99))
            for waits in (self.begins, self.finishes)
        )
        both = f"both p99 {self.p99_ms:.1f} ms"
        processor = (
            f"{self.processor_seconds / len(self.finishes) * 1000:.1f} ms of processor a turn"
        )
        return (
            f"{name:<25} {self.rate:>5,.0f} turns/s  begin p50 / p99 {begin} ms"
            f"  finish {finish} ms  {both}  {processor}"
        )


def _quantile(waits: Sequence[float], q: float) -> float:
    ordered = sorted(waits)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000


def disk_alone(folder: Path, seconds: float) -> list[float]:
    """Append 4 KiB and call fdatasync, repeatedly, with one writer."""
    waits: list[float] = []
    with (folder / "disk").open("ab", buffering=0) as file:
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            file.write(b"x" * 4096)
            os.fdatasync(file.fileno())
            waits.append(time.perf_counter() - now)
    return waits


async def clients(stubs: Sequence[Any], seconds: float) -> Figures:
    """Run 32 clients, each with its own conversations and one turn at a time.

    Each client alternates between the replicas.
    """
    begins: list[float] = []
    finishes: list[float] = []
    started = time.perf_counter()

    async def client(number: int) -> None:
        owner = (("x-tw-tenant", "bench"), ("x-tw-user", f"user-{number}"))
        conversation_id = ""
        for turn in range(1_000_000):
            if time.perf_counter() - started > seconds:
                return
            stub = stubs[(number + turn) % len(stubs)]
            if turn % TURNS_A_CONVERSATION == 0:
                conversation_id = ""
            before = time.perf_counter()
            begun = await stub.BeginTurn(_begin(conversation_id), timeout=30, metadata=owner)
            between = time.perf_counter()
            await stub.FinishTurn(_finish(begun.assistant_message_id), timeout=30, metadata=owner)
            begins.append(between - before)
            finishes.append(time.perf_counter() - between)
            conversation_id = begun.conversation_id

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return Figures(time.perf_counter() - started, begins, finishes)


def _begin(conversation_id: str) -> session_pb2.BeginTurnRequest:
    user = session_pb2.UserMessage(original_text=QUESTION, text=QUESTION)
    return session_pb2.BeginTurnRequest(
        user=user, conversation_id=conversation_id, request_id=uuid.uuid4().hex
    )


def _finish(message_id: str) -> session_pb2.FinishTurnRequest:
    return session_pb2.FinishTurnRequest(
        assistant_message_id=message_id,
        text=ANSWER,
        finish_reason=chat_pb2.FINISH_REASON_STOP,
        model_version="bench",
        arm="stable",
        assignment_probability=1.0,
    )


def _environment(folder: Path, url: str, port: int) -> Mapping[str, str]:
    settings = {
        "PORT": port,
        "METRICS_PORT": 0,
        "PRINCIPAL_KEY": "the benchmark's own key",
        "DATABASE_URL": url,
        "TOKENIZER_FILE": folder / "tokenizer.json",
        # No server listens; the relay only polls the outbox.
        "FEEDBACK_TARGET": "127.0.0.1:1",
    }
    return os.environ | {f"TW_SESSION_{name}": str(value) for name, value in settings.items()}


@dataclass(frozen=True)
class Replica:
    """One process of the service."""

    stub: Any
    process: subprocess.Popen[bytes]

    def processor_seconds(self) -> float:
        """Return the processor time used so far, without Postgres."""
        user, system = (
            Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        )
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def turns_at(replicas: Sequence[Replica], seconds: float) -> Figures:
    """Measure one round of turns."""
    before = sum(replica.processor_seconds() for replica in replicas)
    figures = await clients([replica.stub for replica in replicas], seconds)
    used = sum(replica.processor_seconds() for replica in replicas) - before
    return replace(figures, processor_seconds=used)


@asynccontextmanager
async def replica(folder: Path, url: str) -> AsyncIterator[Replica]:
    """Run the real process."""
    port = free_port()
    process = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
        [sys.executable, "-m", "services.session"],
        env=_environment(folder, url, port),
        stderr=subprocess.DEVNULL,
    )
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            await asyncio.wait_for(channel.channel_ready(), BOOT_SECONDS)
            yield Replica(session_pb2_grpc.SessionServiceStub(channel), process)
    finally:
        process.terminate()
        process.wait()


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """Run Postgres with default durability; yield the URL of a migrated database."""
    server = Postgres(folder / "postgres", free_port())
    (program,) = server.prepare(find_installed().postgres)
    with (folder / "postgres.log").open("wb") as log:
        process = subprocess.Popen(program.command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + BOOT_SECONDS
        while not asyncio.run(program.is_ready()):
            if time.monotonic() > end:
                sys.exit((folder / "postgres.log").read_text())
        url = server.url(driver="postgresql+asyncpg")
        command = [sys.executable, "-m", "services.session", "migrate"]
        subprocess.run(command, env=_environment(folder, url, 0), check=True)
        yield url
    finally:
        process.send_signal(program.stop_signal)
        process.wait()


async def measure(folder: Path, postgres_url: str, seconds: float) -> dict[str, list[Figures]]:
    """Measure all parts in interleaved rounds."""
    async with (
        replica(folder, f"sqlite:///{folder}/sessions.db") as sqlite,
        replica(folder, postgres_url) as one,
        replica(folder, postgres_url) as other,
    ):
        parts: dict[str, list[Replica]] = {
            "SQLite": [sqlite],
            "Postgres": [one],
            "Postgres, two replicas": [one, other],
        }
        found: dict[str, list[Figures]] = {name: [] for name in parts}
        for replicas in parts.values():
            await turns_at(replicas, 1.0)
        for _ in range(ROUNDS):
            for name, replicas in parts.items():
                found[name].append(await turns_at(replicas, seconds))
        return found


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="length of each of the nine parts"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=None,
        help="folder on the disk to measure; default: the temp folder",
    )
    arguments = parser.parse_args()
    versions = " ".join(
        f"{name} {metadata.version(name)}" for name in ("grpcio", "sqlalchemy", "asyncpg")
    )
    print(f"python {platform.python_version()}  {versions}")
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},"
        f" {platform.platform()}"
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        _write_tokenizer(folder)
        waits = disk_alone(folder, 2.0)
        print(
            f"fdatasync of 4 KiB, one writer: p50 {_quantile(waits, 0.5):.1f} ms, p99"
            f" {_quantile(waits, 0.99):.1f} ms"
        )
        with postgres(folder) as url:
            found = asyncio.run(measure(folder, url, arguments.seconds))
    for name, rounds in found.items():
        for number, figures in enumerate(rounds, start=1):
            print(figures.line(f"{name} {number}"))
    sqlite, server, two = (
        (statistics.median(f.rate for f in rounds), statistics.median(f.p99_ms for f in rounds))
        for rounds in found.values()
    )
    print(
        f"Postgres to SQLite: {server[0] / sqlite[0]:.2f} of the turns/s,"
        f" {server[1] / sqlite[1]:.1f} times the p99"
    )
    print(f"two replicas to one: {two[0] / server[0]:.2f} of the turns/s")


def _write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    main()
