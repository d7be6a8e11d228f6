"""The feedback service as a process of its own, before a real S3 store and a proxy that hurts; with clients, and a history.

Four people rate at once, each one event at a time. What they were told is compared with what the public reader finds.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from sqlalchemy import Engine
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2, feedback_pb2_grpc

from infra.supervision.ports import HOST, free_port
from services.chassis.identity import Caller
from services.feedback.audit import Report, audit
from services.feedback.database import open_database
from services.feedback.ledger import Ledger
from services.feedback.log import LogView
from services.feedback.s3_store import S3Place, S3Store
from services.feedback.spool_folder import inspect
from tests.servers import Bucket
from tests.services.feedback.history import History, violations
from tests.services.feedback.samples import KEY, MASTER, correction, thumb

PEOPLE = 4
BOOT_SECONDS = 60
CALL_SECONDS = 10
STREAM = "feedback"


@dataclass(frozen=True)
class Patience:
    """How the service is told to flush and to wait for the store."""

    flush_seconds: float = 0.2
    flush_bytes: int = 4 << 20
    request_seconds: float = 1.0


class FeedbackService:
    """`with` it: started, and at the end stopped whatever happened. `store` reads past the proxy."""

    def __init__(self, root: Path, bucket: Bucket, store_port: int, patience: Patience | None = None) -> None:
        self._root, self._bucket, self._store_port = root, bucket, store_port
        self._patience = patience or Patience()
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._engine: Engine | None = None
        self._requests = iter(range(10_000_000))
        self.history = History({f"person {number}": [] for number in range(PEOPLE)})
        self.store = S3Store(self._place(bucket.endpoint))

    def __enter__(self) -> "FeedbackService":
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        self._engine = open_database(self._database_url)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._engine:
            self._engine.dispose()

    def start(self) -> None:
        """Serves when it returns."""
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.feedback"], env=os.environ | self.environment(), stdout=log, stderr=log
            )
        with grpc.insecure_channel(f"{HOST}:{self._port}") as channel:
            grpc.channel_ready_future(channel).result(BOOT_SECONDS)

    def environment(self) -> dict[str, str]:
        """Its settings, and those of its commands."""
        values = {
            "PORT": self._port,
            "METRICS_PORT": 0,
            "PRINCIPAL_KEY": KEY,
            "MASTER_KEY": MASTER,
            "SPOOL_DIRECTORY": self._root / "spool",
            "DATABASE_URL": self._database_url,
            "FLUSH_SECONDS": self._patience.flush_seconds,
            "FLUSH_BYTES": self._patience.flush_bytes,
            "S3_ENDPOINT": f"{HOST}:{self._store_port}",
            "S3_BUCKET": self._bucket.name,
            "S3_SECURE": "false",
            "S3_ACCESS_KEY": self._bucket.access_key,
            "S3_SECRET_KEY": self._bucket.secret_key,
            "S3_REQUEST_SECONDS": self._patience.request_seconds,
        }
        return {f"TW_FEEDBACK_{name}": str(value) for name, value in values.items()}

    def command(self, *arguments: str) -> str:
        """What `python -m services.feedback …` prints; it must succeed."""
        return subprocess.run(
            [sys.executable, "-m", "services.feedback", *arguments],
            env=os.environ | self.environment(),
            capture_output=True,
            text=True,
            timeout=CALL_SECONDS * 6,
            check=True,
        ).stdout

    @contextmanager
    def people_rate(self, pause_seconds: float = 0.0, text_bytes: int = 0) -> Iterator[None]:
        """As long as the block runs. Raises what a call raised: while the store is broken, none may fail."""
        done = threading.Event()

        def rate(person: str) -> None:
            with grpc.insecure_channel(f"{HOST}:{self._port}") as channel:
                stub = feedback_pb2_grpc.FeedbackLogServiceStub(channel)
                while not done.wait(pause_seconds):
                    self._rate(stub, person, text_bytes)

        with ThreadPoolExecutor(PEOPLE) as pool:
            rating = [pool.submit(rate, person) for person in self.history.sent]
            try:
                yield
            finally:
                done.set()
        for one in rating:
            one.result()

    def _rate(self, stub: Any, person: str, text_bytes: int) -> None:
        event = self._event(person, text_bytes)
        self.history.sent[person].append(event.event_id)
        request = feedback_pb2.RecordFeedbackRequest(event=event)
        identity = (("x-tw-tenant", "acme"), ("x-tw-user", person))
        stub.RecordFeedback(request, timeout=CALL_SECONDS, metadata=identity)
        self.history.acknowledged.add(event.event_id)

    def _event(self, person: str, text_bytes: int) -> events_pb2.FeedbackEvent:
        request, caller = f"r{next(self._requests)}", Caller("acme", person)
        if not text_bytes:
            return thumb(request, message=person, caller=caller)
        # Not compressible, as what people write is not much.
        return correction(request, os.urandom(text_bytes // 2).hex(), message=person, caller=caller)

    def wait_until_sunk(self, seconds: float) -> float:
        """Seconds until all that is in the spool now is in the ledger."""
        began, end = time.monotonic(), self.spool().end_offset
        while self.sunk() < end:
            assert time.monotonic() - began < seconds, f"{self.sunk()} of {end} events after {seconds} s"
            time.sleep(0.05)
        return time.monotonic() - began

    def sunk(self) -> int:
        """The ledger's end."""
        segments = self.ledger.segments(STREAM)
        return segments[-1].end_offset if segments else 0

    def spool(self) -> LogView:
        (view,) = inspect(self._root / "spool" / STREAM)
        return view

    @property
    def ledger(self) -> Ledger:
        assert self._engine, "not started"
        return Ledger(self._engine)

    def violations(self) -> list[str]:
        """Every invariant that does not hold."""
        spool = self.spool()
        ends = {(spool.topic_id, 0): spool.end_offset}
        return violations(self.history, self.ledger, self.store, STREAM, ends)

    def audit(self) -> Report:
        return audit(self.ledger, self.store, lambda stream: inspect(self._root / "spool" / stream))

    def most_resident_bytes(self) -> int:
        """The most memory that the process has had since its start."""
        assert self._process
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def said(self) -> str:
        """What it has logged."""
        return self._log_file.read_text()

    @property
    def _log_file(self) -> Path:
        return self._root / "feedback.log"

    @property
    def _database_url(self) -> str:
        return f"sqlite:///{self._root}/ledger.db"

    def _place(self, endpoint: str) -> S3Place:
        bucket = self._bucket
        return S3Place(endpoint, bucket.name, "us-east-1", False, bucket.access_key, bucket.secret_key, 3.0, 10.0)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Raises AssertionError if it never holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not after {seconds} s"
        time.sleep(0.02)


def port_of(bucket: Bucket) -> int:
    """Where its store listens."""
    return int(bucket.endpoint.rpartition(":")[2])
