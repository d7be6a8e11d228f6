"""Shared parts of the feedback scenarios: stacks, replicas, clients, and the history checker.

Each stack has its own topics and database. Replicas run in this process or in separate ones.
Clients repeat events until acknowledged. The checker compares the history with the data seen by
readers.
"""

import asyncio
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from prometheus_client import REGISTRY
from sqlalchemy import Engine
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from infra.run.supervision.ports import HOST, free_port
from services.chassis.errors import from_rpc
from services.chassis.identity import REQUEST_KEY, TENANT_KEY, USER_KEY
from services.chassis.server import serving
from services.feedback.__main__ import wiring
from services.feedback.kafka.cluster import MAX_MESSAGE_BYTES, Cluster
from services.feedback.kafka.topic import partition_views
from services.feedback.lake import parquet
from services.feedback.lake.audit import Report, audit
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory, ObjectStore
from services.feedback.lake.s3_store import S3Location, S3Store
from services.feedback.settings import FeedbackSettings
from services.feedback.store.database import connect, migrate
from tests.servers import Bucket, KafkaServer, PostgresServer
from tests.services.feedback.history import History, PartitionKey, violations
from tests.services.feedback.objects import decode
from tests.services.feedback.samples import ADA, KEY, MASTER, correction, name, thumb

Stub = feedback_pb2_grpc.FeedbackLogServiceStub
IDENTITY = ((TENANT_KEY, ADA.tenant), (USER_KEY, ADA.user), (REQUEST_KEY, "r"))
CONVERSATIONS = 6
# An acknowledgement that waits for Kafka during an outage takes at least the watchdog's seconds; on
# a busy machine half of those from the spool took up to 83 ms.
WATCHDOG_SECONDS, SPOOL_ACK_SECONDS = 2.0, 0.5
CALL_SECONDS = 15.0
# Test machines may be busy, so durations are asserted only in explicit places.
TIMEOUT_SECONDS = 120.0
# Duration of every takeover, long enough for a busy machine to renew in time.
SESSION_SECONDS = 3.0


@dataclass
class Stack:
    """Topics, database, objects and folders of one scenario."""

    root: Path
    kafka: KafkaServer
    database_url: str
    topics: dict[str, str]
    engine: Engine
    # Addresses for readers and for replicas, which may use a proxy.
    store: ObjectStore
    store_settings: dict[str, object]
    lost_ends: dict[PartitionKey, int] = field(default_factory=dict)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.engine)

    def values(self, replica: int, **changes: object) -> dict[str, object]:
        """Return the settings of one replica."""
        return {
            "principal_key": KEY,
            "master_key": MASTER,
            "spool_directory": self.root / f"spool-{replica}",
            **self.store_settings,
            "database_url": self.database_url,
            "kafka_bootstrap": self.kafka.bootstrap,
            "replication_factor": len(self.kafka.processes),
            "min_insync_replicas": min(2, len(self.kafka.processes)),
            "feedback_topic": self.topics["feedback"],
            "turns_topic": self.topics["turns"],
            "consumer_group": f"g-{self.topics['feedback']}",
            "consumer_session_seconds": SESSION_SECONDS,
            "flush_seconds": 0.2,
            "flush_rows": 50,
            "drain_seconds": 2,
            # The history is checked segment by segment. Scenario F27 covers compaction.
            "compaction_minutes": 0,
            **changes,
        }

    def admin(self) -> Any:
        return contextlib.closing(KafkaAdminClient(bootstrap_servers=self.kafka.bootstrap))

    def ends(self) -> dict[PartitionKey, int]:
        """Return the end offsets of the feedback topics, including earlier ones."""
        topic = self.topics["feedback"]
        with self.admin() as admin:
            (described,) = admin.describe_topics([topic])
        places = [
            TopicPartition(topic, found["partition_index"]) for found in described["partitions"]
        ]
        with contextlib.closing(KafkaConsumer(bootstrap_servers=self.kafka.bootstrap)) as consumer:
            ends = consumer.end_offsets(places)
        now = {(str(described["topic_id"]), place.partition): end for place, end in ends.items()}
        return self.lost_ends | now

    def committed(self) -> dict[PartitionKey, int]:
        """Return the committed offsets of the ledger."""
        return {(s.topic_id, s.partition): s.end_offset for s in self.ledger.segments("feedback")}

    def rows(self) -> list[parquet.Row]:
        """Return all rows visible to a reader."""
        keys = [
            segment.object_key for segment in self.ledger.segments("feedback") if segment.object_key
        ]
        return [row for key in keys for row in decode(self.store.get(key))]

    def waiting(self) -> int:
        """Return the number of offsets not yet in the ledger."""
        return sum(self.ends().values()) - sum(self.committed().values())

    def problems(self, history: History) -> list[str]:
        """Return contradictions to the history, and findings of the product's audit."""
        found = violations(history, self.ledger, self.store, "feedback", self.ends())
        return found + self.audit().problems

    def audit(self) -> Report:
        """Run the audit as in `python -m services.feedback audit`."""
        cluster = Cluster(self.kafka.bootstrap)
        return audit(
            self.ledger, self.store, lambda stream: partition_views(cluster, self.topics[stream])
        )


@dataclass(frozen=True)
class S3:
    """A bucket with the store's port for replicas. Readers and tests connect directly."""

    bucket: Bucket
    port: int
    request_seconds: float = 1.0

    def store(self) -> S3Store:
        bucket = self.bucket
        place = S3Location(
            bucket.endpoint,
            bucket.name,
            "us-east-1",
            False,
            bucket.access_key,
            bucket.secret_key,
            3.0,
            10.0,
        )
        return S3Store(place)

    def settings(self) -> dict[str, object]:
        return {
            "s3_endpoint": f"{HOST}:{self.port}",
            "s3_bucket": self.bucket.name,
            "s3_secure": False,
            "s3_access_key": self.bucket.access_key,
            "s3_secret_key": self.bucket.secret_key,
            "s3_request_seconds": self.request_seconds,
        }


def port_of(bucket: Bucket) -> int:
    """Return the port of the bucket's store."""
    return int(bucket.endpoint.rpartition(":")[2])


@contextlib.contextmanager
def stack_on(
    root: Path,
    kafka: KafkaServer,
    postgres: PostgresServer,
    s3: S3 | None = None,
    partitions: int = 3,
) -> Iterator[Stack]:
    """Create topics and a database on shared servers. Without S3, objects are in a directory."""
    objects = root / "objects"
    store = s3.store() if s3 else Directory(objects)
    url = postgres.database().url("postgresql+pg8000")
    engine = connect(url)
    migrate(engine)
    # The same as `python -m services.feedback topics`.
    configs = {
        "max_message_bytes": str(MAX_MESSAGE_BYTES),
        "message_timestamp_type": "LogAppendTime",
    }
    topics = {stream: kafka.topic(partitions, **configs) for stream in ("feedback", "turns")}
    yield Stack(
        root,
        kafka,
        url,
        topics,
        engine,
        store,
        s3.settings() if s3 else {"object_directory": objects},
    )
    engine.dispose()


@asynccontextmanager
async def local_replica(stack: Stack, number: int = 0, **changes: object) -> AsyncIterator[Stub]:
    """Run a replica in this process, for faults of its environment."""
    settings = FeedbackSettings(port=0, metrics_port=0, **stack.values(number, **changes))
    async with (
        wiring(settings) as registrations,
        serving(settings, registrations) as port,
        grpc.aio.insecure_channel(f"{HOST}:{port}") as channel,
    ):
        yield Stub(channel)


class ReplicaProcess:
    """A replica in a separate process, for faults of the replica itself.

    `broken_at` is a point of broken_replica.py with the number of the pass.
    """

    def __init__(
        self, stack: Stack, number: int = 0, broken_at: tuple[str, int] | None = None
    ) -> None:
        self._stack, self._number = stack, number
        self._program = ["services.feedback"]
        if broken_at:
            self._program = ["tests.faults.broken_replica", broken_at[0], str(broken_at[1])]
        self.port, self.metrics_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self, **changes: object) -> Stub:
        values = self._stack.values(
            self._number, port=self.port, metrics_port=self.metrics_port, **changes
        )
        log_file = self._log_file
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *self._program],
                env=variables(values),
                stdout=log,
                stderr=log,
            )
        self.channel = grpc.aio.insecure_channel(f"{HOST}:{self.port}")
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while self.channel.get_state(True) is not grpc.ChannelConnectivity.READY:
                assert self._process.poll() is None, log_file.read_text()[-3000:]
                await asyncio.sleep(0.05)
        return Stub(self.channel)

    @property
    def spool(self) -> Path:
        return self._stack.root / f"spool-{self._number}"

    @property
    def _log_file(self) -> Path:
        return self._stack.root / f"replica-{self._number}.log"

    def log_text(self) -> str:
        """Return the output of the process."""
        return self._log_file.read_text()

    def signal(self, number: signal.Signals) -> None:
        assert self._process
        self._process.send_signal(number)

    async def ended(self) -> int:
        """Return the exit status after the end."""
        assert self._process
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while (status := self._process.poll()) is None:
                await asyncio.sleep(0.02)
        return status

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return await self.ended()

    def peak_resident_bytes(self) -> int:
        """Return the peak resident memory of the process."""
        assert self._process
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def metric_value(self, metric: str, **labels: str) -> float:
        """Return a metric by HTTP, summed over labels not given."""
        with urllib.request.urlopen(
            f"http://{HOST}:{self.metrics_port}/metrics", timeout=10
        ) as answer:
            lines = answer.read().decode().splitlines()
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = re.compile(rf"thumbwheel_feedback_{metric}(\{{.*\}})? (\S+)")
        matches = [found.fullmatch(line) for line in lines]
        return sum(
            float(m[2]) for m in matches if m and all(label in (m[1] or "") for label in wanted)
        )

    @asynccontextmanager
    async def running(self, **changes: object) -> AsyncIterator[Stub]:
        """Run the process during the block and kill it at the end."""
        stub = await self.start(**changes)
        try:
            yield stub
        finally:
            if self._process and self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            await self.channel.close()


def variables(values: dict[str, object]) -> dict[str, str]:
    """Return the environment of a process with these settings."""
    return os.environ | {f"TW_FEEDBACK_{key.upper()}": str(value) for key, value in values.items()}


def metric_value(metric: str, **labels: str) -> float:
    """Return a metric of this process, summed over labels not given."""
    return sum(
        sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == f"thumbwheel_feedback_{metric}"
        and labels.items() <= sample.labels.items()
    )


class Clients:
    """Concurrent users. Each conversation repeats one event at a time until acknowledged."""

    def __init__(
        self, stubs: Sequence[Stub], seed: int = 0, pause_seconds: float = 0.02, text_bytes: int = 0
    ) -> None:
        """Create clients that send thumbs or, with `text_bytes`, corrections of this length."""
        self.stubs, self._pause_seconds, self._text_bytes = list(stubs), pause_seconds, text_bytes
        self.history = History({f"c{number}": [] for number in range(CONVERSATIONS)})
        self.ack_seconds: list[float] = []
        # Promises of acknowledgements, and reasons of rejections.
        self.durabilities: set[int] = set()
        self.refusals: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._stopped = asyncio.Event()

    async def send(self, events_each: int) -> None:
        """Send a number of events per conversation."""
        await asyncio.gather(*(self._send_events(name, events_each) for name in self.history.sent))

    async def send_until_stopped(self) -> None:
        self._stopped.clear()
        await asyncio.gather(*(self._send_events(name, sys.maxsize) for name in self.history.sent))

    def stop(self) -> None:
        self._stopped.set()

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Send continuously during the block."""
        task = asyncio.ensure_future(self.send_until_stopped())
        try:
            yield
        finally:
            self.stop()
            await task

    async def _send_events(self, conversation: str, events: int) -> None:
        sent = self.history.sent[conversation]
        for _ in range(events):
            if self._stopped.is_set():
                return
            event = self._event(f"{conversation}-{len(sent)}", conversation)
            sent.append(event.event_id)
            await self.send_event(event)
            self.history.acknowledged.add(event.event_id)
            # A tenth of all events is repeated after its acknowledgement, as after a lost reply.
            if self._random.random() < 0.1:
                await self.send_event(event)
            await asyncio.sleep(self._pause_seconds)

    def _event(self, request: str, conversation: str) -> events_pb2.FeedbackEvent:
        if not self._text_bytes:
            return thumb(request, up=self._random.random() < 0.5, message=conversation)
        # Incompressible, since human text compresses little.
        return correction(request, os.urandom(self._text_bytes // 2).hex(), message=conversation)

    async def send_event(self, event: events_pb2.FeedbackEvent) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            started = time.monotonic()
            try:
                answer = await record(self._random.choice(self.stubs), event)
            except grpc.aio.AioRpcError as error:
                assert error.code() in RETRIED, error
                assert time.monotonic() < deadline, (
                    f"not acknowledged for {TIMEOUT_SECONDS} s: {error.details()}"
                )
                self.refusals[from_rpc(error, "feedback").reason] += 1
                await asyncio.sleep(0.1)
            else:
                self.durabilities.add(answer.durability)
                self.ack_seconds.append(time.monotonic() - started)
                return

    @property
    def retries(self) -> int:
        return self.refusals.total()

    def ack_percentile(self, share: float) -> float:
        ordered = sorted(self.ack_seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


RETRIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


async def record(stub: Any, event: events_pb2.FeedbackEvent) -> feedback_pb2.RecordFeedbackResponse:
    request = feedback_pb2.RecordFeedbackRequest(event=event)
    return await stub.RecordFeedback(request, timeout=CALL_SECONDS, metadata=IDENTITY)


async def current(stub: Any, *messages: str) -> dict[str, bool]:
    """Return the current thumb of each message according to the clients."""
    ids = {name(message): message for message in messages}
    request = feedback_pb2.GetThumbsRequest(message_ids=list(ids))
    answer = await stub.GetThumbs(request, timeout=CALL_SECONDS, metadata=IDENTITY)
    return {ids[message_id]: up for message_id, up in answer.thumbs.items()}


async def wait_until(
    condition: Callable[[], object], what: str, seconds: float = TIMEOUT_SECONDS
) -> float:
    """Wait for a condition, which may block. Returns the duration."""
    started = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < started + seconds, f"waited {seconds} s for: {what}"
        await asyncio.sleep(0.05)
    return time.monotonic() - started


async def wait_until_sunk(stack: Stack, history: History) -> float:
    """Wait until all acknowledged events and all topic records are in the ledger."""

    def done() -> bool:
        known = len(stack.ledger.fingerprints("feedback", sorted(history.acknowledged)))
        return known == len(history.acknowledged) and stack.committed() == {
            place: end for place, end in stack.ends().items() if end
        }

    return await wait_until(done, "the ledger to have what was acknowledged")
