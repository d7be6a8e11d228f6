"""Real servers for tests, started once per session.

Tests request a new topic, database or bucket, and may break a server. All methods are synchronous.
An async test calls slow methods (start, stop, topic, database, bucket) by `asyncio.to_thread`;
kill, pause and resume return at once.
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

from infra.machine.servers import installation, vllm
from infra.machine.servers.kafka import PORTS_A_BROKER, Kafka
from infra.machine.servers.postgres import USER, Postgres
from infra.machine.servers.seaweedfs import ACCESS_KEY, PORTS, SeaweedFS, connect
from infra.machine.servers.valkey import DATABASES, Valkey
from infra.machine.servers.vllm import Vllm
from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST, distinct_free_ports, free_port

READY_SECONDS = 120.0
# 60 s of processor time: imports, the model, kernels.
VLLM_READY_SECONDS = 1500.0
AnyServer = TypeVar("AnyServer", bound="Server")


class Process:
    """A program that a test may break; unlike a supervised one, it is not restarted."""

    def __init__(
        self, program: Program, log_file: Path, ready_seconds: float = READY_SECONDS
    ) -> None:
        self.program = program
        self._log_file = log_file
        self._ready_seconds = ready_seconds
        self._process: subprocess.Popen[bytes] | None = None
        # The parent-death signal is tied to the starting thread, and a thread of an async test ends
        # with the test.
        self._starter = ThreadPoolExecutor(max_workers=1)

    @property
    def pid(self) -> int:
        assert self._process, f"{self.program.name} was never started"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Start the program without waiting for readiness.

        The supervisor's `prepare_process` is unsuitable. Python code between fork and exec crashes
        if gRPC runs in this process. Its parent-death signal arrives when the launching thread
        ends, and threads of `asyncio.to_thread` end after each test.
        """
        assert not self.is_running, f"{self.program.name} runs already"
        self._process = self._starter.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start the program so that it ends with the test process in any case."""
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
        end = time.monotonic() + self._ready_seconds
        while not await self.program.is_ready():
            assert self.is_running, (
                f"{self.program.name} died: {self._log_file.read_text()[-2000:]}"
            )
            assert time.monotonic() < end, (
                f"{self.program.name} is not ready: {self._log_file.read_text()[-2000:]}"
            )
            await asyncio.sleep(0.05)

    def start(self) -> None:
        """Start on the same data and wait until ready."""
        self.launch()
        self.wait_ready()

    def stop(self) -> None:
        """Stop in the same way as the supervisor, which kills a program that does not end in time.

        A sync of Postgres can take longer on a busy disk.
        """
        if self.is_running:
            self.resume()
            os.kill(self.pid, self.program.stop_signal)
            try:
                self._wait_gone(self._process_tree())
            except subprocess.TimeoutExpired:
                if self.is_running:
                    self.kill()

    def kill(self) -> None:
        """Kill the process and its children with SIGKILL.

        Data handed to the operating system is kept, data in the memory of the process is lost.
        """
        process_tree = self._signal_all(signal.SIGKILL)
        self._wait_gone(process_tree)

    def pause(self) -> None:
        """Stop the process and its children with SIGSTOP: connections stay open without answers."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _process_tree(self) -> list[int]:
        return [self.pid, *descendants(self.pid)]

    def _signal_all(self, number: signal.Signals) -> list[int]:
        assert self.is_running, f"{self.program.name} does not run, so the fault is void"
        process_tree = self._process_tree()
        for pid in process_tree:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return process_tree

    def _wait_gone(self, process_tree: Sequence[int]) -> None:
        """Wait for the children too, since Postgres does not start next to an old child."""
        assert self._process
        end = time.monotonic() + self.program.stop_seconds
        try:
            self._process.wait(self.program.stop_seconds)
            while any(_is_alive(pid) for pid in process_tree):
                assert time.monotonic() < end, f"children of {self.program.name} did not end"
                time.sleep(0.01)
        finally:
            self.program.clean()


class Server:
    """One server of one or more processes."""

    def __init__(
        self, programs: Sequence[Program], folder: Path, ready_seconds: float = READY_SECONDS
    ) -> None:
        self.processes = [
            Process(program, folder / f"{program.name}.log", ready_seconds) for program in programs
        ]

    def start(self) -> None:
        """Start stopped processes on the same data, and wait until all are ready."""
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
    """A Kafka cluster; `processes[i]` is broker i + 1."""

    def __init__(self, folder: Path, brokers: int) -> None:
        self.cluster = Kafka(folder, tuple(distinct_free_ports(PORTS_A_BROKER * brokers)))
        super().__init__(self.cluster.prepare(installation.locate().java), folder)

    @property
    def bootstrap(self) -> str:
        return self.cluster.bootstrap

    def topic(self, partitions: int = 1, **settings: str) -> str:
        """Create a topic with a unique name and the replication of the cluster.

        Brokers that an earlier failed test left stopped are started first.

        Args:
            partitions: number of partitions.
            settings: settings of the topic with '_' for '.', for example retention_ms="1000".
        """
        if not all(process.is_running for process in self.processes):
            self.start()
        name = f"t-{uuid.uuid4().hex[:12]}"
        configs = {key.replace("_", "."): value for key, value in settings.items()}
        with contextlib.closing(KafkaAdminClient(bootstrap_servers=self.bootstrap)) as admin:
            admin.create_topics([NewTopic(name, partitions, -1, topic_configs=configs)])
        return name

    def leader(self, topic: str, partition: int = 0) -> Process:
        """Return the broker that leads a partition; an election takes seconds."""
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
        raise AssertionError(f"{topic}/{partition} has no leader")


@dataclass(frozen=True)
class Database:
    """Connection data of one database."""

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
        """Create an empty database."""
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
        """Return the URL of an empty database that no other test uses."""
        return self._valkey.url(next(self._unused))


@dataclass(frozen=True)
class Bucket:
    """Connection data of one bucket."""

    endpoint: str
    access_key: str
    secret_key: str
    name: str


class S3Server(Server):
    def __init__(self, folder: Path) -> None:
        self._store = SeaweedFS(folder, tuple(distinct_free_ports(PORTS)))
        super().__init__(self._store.prepare(installation.locate().weed), folder)

    def bucket(self) -> Bucket:
        """Create an empty bucket."""
        name = f"t-{uuid.uuid4().hex[:12]}"
        connect(self._store.endpoint, self._store.secret_key).make_bucket(name)
        return Bucket(self._store.endpoint, ACCESS_KEY, self._store.secret_key, name)


class VllmServer(Server):
    """vLLM's CPU build with one model.

    Args:
        arguments: additional arguments of `vllm serve`.
    """

    def __init__(
        self, folder: Path, model: Path, version: str, arguments: Sequence[str] = ()
    ) -> None:
        self.vllm = Vllm(folder, free_port(), model, version, arguments=arguments)
        super().__init__(self.vllm.prepare(vllm.find_installed()), folder, VLLM_READY_SECONDS)


@contextlib.contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Start a server and stop it at the end of the block, also after an error."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


def descendants(pid: int) -> list[int]:
    """Return all children in the order of their start; empty for a process that has ended."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except FileNotFoundError:
        return []
    return list(itertools.chain.from_iterable([child, *descendants(child)] for child in children))


def _is_alive(pid: int) -> bool:
    """Return True unless the process has ended or is a zombie.

    The exit status of an orphan may never be read, so a zombie may remain.
    """
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
