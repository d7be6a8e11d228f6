"""The real servers as tests use them: started once a session, asked for a fresh topic, database or
bucket, and broken.

All methods are plain functions. An async test calls those that take time (start, stop, topic,
database, bucket) by `asyncio.to_thread`; kill, pause and resume return at once.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pg8000.dbapi
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from infra.servers import installation
from infra.servers.kafka import PORTS_A_BROKER, Kafka
from infra.servers.postgres import USER, Postgres
from infra.servers.seaweedfs import ACCESS_KEY, PORTS, SeaweedFS, connect
from infra.servers.valkey import DATABASES, Valkey
from infra.supervision.child import Program
from infra.supervision.ports import HOST, distinct_free_ports, free_port

READY_SECONDS = 120.0
AnyServer = TypeVar("AnyServer", bound="Server")


class Process:
    """One program that a test may break. Unlike a supervised one it stays dead until it is started
    again.
    """

    def __init__(self, program: Program, log_file: Path) -> None:
        self.program = program
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        # Linux ends a process with the thread that started it; that of an async test would end with
        # the test.
        self._starter = ThreadPoolExecutor(max_workers=1)

    @property
    def pid(self) -> int:
        assert self._process, f"{self.program.name} was never started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start, without waiting until it is ready.

        Not with the supervisor's `prepare_process`: Python between fork and exec crashes where gRPC
        runs in this process, and the signal that it asks for comes when the launching thread ends,
        as those of `asyncio.to_thread` do after each test.
        """
        assert not self.is_running, f"{self.program.name} runs already"
        self._process = self._starter.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        """It ends when these tests do, however they end."""
        with self._log_file.open("ab") as log:
            return subprocess.Popen(
                [
                    "setpriv",
                    "--pdeathsig",
                    self.program.stop_signal.name.removeprefix("SIG"),
                    "--",
                    *self.program.command,
                ],
                env={**os.environ, **self.program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self) -> None:
        asyncio.run(self._wait_ready())

    async def _wait_ready(self) -> None:
        end = time.monotonic() + READY_SECONDS
        while not await self.program.is_ready():
            assert self.is_running, (
                f"{self.program.name} died: {self._log_file.read_text()[-2000:]}"
            )
            assert time.monotonic() < end, (
                f"{self.program.name} is not ready: {self._log_file.read_text()[-2000:]}"
            )
            await asyncio.sleep(0.05)

    def start(self) -> None:
        """Start, again on the same data, and wait until it is ready."""
        self.launch()
        self.wait_ready()

    def stop(self) -> None:
        """As the supervisor does."""
        if self.is_running:
            self.resume()
            os.kill(self.pid, self.program.stop_signal)
            self._wait_gone(self._family())

    def kill(self) -> None:
        """kill -9, its children too. What it had handed to the system is written; what it held
        itself is lost.
        """
        family = self._signal_all(signal.SIGKILL)
        self._wait_gone(family)

    def pause(self) -> None:
        """SIGSTOP, its children too: connections stay open and nobody answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _family(self) -> list[int]:
        return [self.pid, *descendants(self.pid)]

    def _signal_all(self, number: signal.Signals) -> list[int]:
        assert self.is_running, f"{self.program.name} does not run: this fault would not be one"
        family = self._family()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return family

    def _wait_gone(self, family: Sequence[int]) -> None:
        """Children too: Postgres would not start again beside one of the old."""
        assert self._process
        end = time.monotonic() + self.program.stop_seconds
        try:
            self._process.wait(self.program.stop_seconds)
            while any(_lives(pid) for pid in family):
                assert time.monotonic() < end, f"children of {self.program.name} did not end"
                time.sleep(0.01)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self.program.clean()


class Server:
    """One server of one or more processes."""

    def __init__(self, programs: Sequence[Program], folder: Path) -> None:
        self.processes = [Process(program, folder / f"{program.name}.log") for program in programs]

    def start(self) -> None:
        """Start those processes that do not run, on the same data, and wait until all are ready."""
        for process in self.processes:
            if not process.is_running:
                process.launch()
        for process in self.processes:
            process.wait_ready()

    def stop(self) -> None:
        for process in reversed(self.processes):
            process.stop()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()

    def pause(self) -> None:
        for process in self.processes:
            process.pause()

    def resume(self) -> None:
        for process in self.processes:
            process.resume()


class KafkaServer(Server):
    """`processes[i]` is broker i + 1."""

    def __init__(self, folder: Path, brokers: int) -> None:
        self.cluster = Kafka(folder, tuple(distinct_free_ports(PORTS_A_BROKER * brokers)))
        super().__init__(self.cluster.prepare(installation.locate().java), folder)

    @property
    def bootstrap(self) -> str:
        return self.cluster.bootstrap

    def topic(self, partitions: int = 1, **settings: str) -> str:
        """A new topic with a name of its own; copies and minimum in-sync as the cluster has them. A
        test that failed while a broker was away has left it so.

        Args:
            settings: with '_' for '.', for example retention_ms="1000".
        """
        if not all(process.is_running for process in self.processes):
            self.start()
        name = f"t-{uuid.uuid4().hex[:12]}"
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.create_topics([NewTopic(name, partitions, -1, topic_configs=configs)])
        return name

    def leader(self, topic: str, partition: int = 0) -> Process:
        """The broker that leads a partition; after a death it takes seconds until there is one."""
        end = time.monotonic() + READY_SECONDS
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            while time.monotonic() < end:
                (described,) = admin.describe_topics([topic])
                leaders = {
                    found["partition_index"]: found["leader_id"]
                    for found in described["partitions"]
                }
                if leaders[partition] > 0:
                    return self.processes[leaders[partition] - 1]
                time.sleep(0.1)
        raise AssertionError(f"nobody leads {topic}/{partition}")


@dataclass(frozen=True)
class Database:
    """A database of its own."""

    host: str
    port: int
    user: str
    password: str
    name: str

    def url(self, driver: str = "postgresql+asyncpg") -> str:
        return f"{driver}://{self.user}:{self.password}@{self.host}:{self.port}/{self.name}"


class PostgresServer(Server):
    def __init__(self, folder: Path) -> None:
        self._postgres = Postgres(folder, free_port())
        super().__init__(self._postgres.prepare(installation.locate().postgres), folder)

    def database(self) -> Database:
        """A new, empty database."""
        name, port, password = (
            f"t_{uuid.uuid4().hex[:12]}",
            self._postgres.port,
            self._postgres.password,
        )
        connection = pg8000.dbapi.connect(
            USER, host=HOST, port=port, password=password, database="postgres"
        )
        with contextlib.closing(connection):
            connection.autocommit = True
            connection.cursor().execute(f"CREATE DATABASE {name}")
        return Database(HOST, port, USER, password, name)


class ValkeyServer(Server):
    def __init__(self, folder: Path) -> None:
        self._valkey = Valkey(folder, free_port())
        self._unused = iter(range(DATABASES))
        super().__init__(self._valkey.prepare(installation.locate().valkey), folder)

    def database(self) -> str:
        """The URL of an empty database that no other test uses."""
        return self._valkey.url(next(self._unused))


@dataclass(frozen=True)
class Bucket:
    """A bucket of its own, and what a client needs to use it."""

    endpoint: str
    access_key: str
    secret_key: str
    name: str


class S3Server(Server):
    def __init__(self, folder: Path) -> None:
        self._store = SeaweedFS(folder, tuple(distinct_free_ports(PORTS)))
        super().__init__(self._store.prepare(installation.locate().weed), folder)

    def bucket(self) -> Bucket:
        """A new, empty bucket."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        connect(self._store.endpoint, self._store.secret_key).make_bucket(name)
        return Bucket(self._store.endpoint, ACCESS_KEY, self._store.secret_key, name)


@contextlib.contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Started, and stopped at the end whatever happened."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


def descendants(pid: int) -> list[int]:
    """Children first to last; a process that is gone has none."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except FileNotFoundError:
        return []
    return list(itertools.chain.from_iterable([child, *descendants(child)] for child in children))


def _lives(pid: int) -> bool:
    """A zombie does not: nobody may ever ask for the exit status of an orphan."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
