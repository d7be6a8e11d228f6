"""F27: compaction is killed at each step, or frozen and overtaken, during writes and reads.

Readers find either the old objects or the new object, never a mixture, and each row exactly once.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, select

from services.feedback.compaction.compaction import (
    Compaction,
    CompactionOptions,
    CompactionStep,
    PassResult,
)
from services.feedback.compaction.compactors import Compactors
from services.feedback.compaction.runs import RunLimits
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.audit import audit
from services.feedback.lake.object_store import Directory, ObjectStore
from services.feedback.lake.orphans import find_orphans
from services.feedback.lake.readable_segments import DamagedObjectError, read_segment
from services.feedback.lake.s3_store import S3Store
from services.feedback.principals.erasures import Erasures
from services.feedback.store import tables
from services.feedback.store.database import connect, migrate, open_database
from tests.servers import PostgresServer, S3Server
from tests.services.feedback.compacted import CompactedLog
from tests.services.feedback.s3_stores import place
from tests.services.feedback.samples import ADA, KEY, MASTER, name

ROWS_PER_SEGMENT = 3
ROWS_PER_OBJECT = 30
LEASE_SECONDS = 0.5
WORK_INTERVAL_SECONDS = 0.2
TIMEOUT_SECONDS = 60.0


@dataclass
class Scenario:
    """Log with events numbered in ledger order, and counts of reads and writes."""

    engine: Engine
    store: ObjectStore
    environment: Mapping[str, str]
    readings: int = 0
    listed_again: int = 0
    written: int = 0
    log: CompactedLog = field(init=False)

    def __post_init__(self) -> None:
        self.log = CompactedLog(self.engine, self.store, partitions=2)
        limits = RunLimits(ROWS_PER_OBJECT, 1 << 20)
        self._compaction = Compaction(
            self.log.ledger,
            Compactors(self.engine),
            self.store,
            Erasures(self.engine),
            CompactionOptions(limits, 0, 0, 0, LEASE_SECONDS),
        )

    def write(self) -> None:
        """Commit one segment of thumbs."""
        self.log.thumbs(ROWS_PER_SEGMENT, partition=self.written % 2)
        self.written += 1

    def read(self) -> None:
        """Read like a correct reader and check for all rows, once, in order.

        Objects deleted since the listing cause a new listing.
        """
        while True:
            served = self.log.readable_segments()
            try:
                rows = [
                    row
                    for item in served
                    for row in parquet.to_rows(read_segment(self.store, item))
                ]
                break
            except DamagedObjectError:
                self.listed_again += 1
        assert [item.first_sequence for item in served] == [
            1,
            *(item.sequence + 1 for item in served[:-1]),
        ]
        number = ROWS_PER_SEGMENT * served[-1].sequence
        assert [row["event_id"] for row in rows] == [name(f"{ADA.key}/r{n}") for n in range(number)]
        self.readings += 1

    @contextmanager
    def concurrent_work(self) -> Iterator[None]:
        """Run a writer and a reader until the block ends; both make progress in the block."""
        done, failed = threading.Event(), []
        before = (self.written, self.readings)

        def repeat(work: Callable[[], None]) -> None:
            try:
                while not done.wait(WORK_INTERVAL_SECONDS):
                    work()
            except BaseException as error:
                failed.append(error)
                raise

        threads = [
            threading.Thread(target=repeat, args=(work,)) for work in (self.write, self.read)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
            self.until(lambda: failed or (self.written > before[0] and self.readings > before[1]))
        finally:
            done.set()
            for thread in threads:
                thread.join()
        assert not failed, failed

    def start(self, *broken: object) -> subprocess.Popen[bytes]:
        """Start the command in a process, with a fault of broken_compactor."""
        command = [sys.executable, "-m", "tests.faults.broken_compactor", *map(str, broken)]
        return subprocess.Popen(command, env=os.environ | self.environment, stdout=subprocess.PIPE)

    def compact(self) -> PassResult:
        """Run a pass as soon as the previous lease has expired."""
        found: list[PassResult] = []

        def try_pass() -> bool:
            found.extend([tally] if (tally := self._compaction.run(Stream.FEEDBACK)) else [])
            return bool(found)

        self.until(try_pass)
        return found[0]

    def is_leased(self) -> bool:
        """Return True if any process, alive or dead, still holds the lease."""
        with self.engine.begin() as connection:
            query = select(tables.compactors.c.lease_us).where(
                tables.compactors.c.stream == "feedback"
            )
            return bool(connection.execute(query).scalar())

    def until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + TIMEOUT_SECONDS
        while not condition():
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.05)

    def check(self) -> None:
        """Check the end state: complete rows, a clean audit, and only dead orphans."""
        self.compact()
        self.read()
        logs = self.log.logs
        assert (
            audit(
                self.log.ledger, self.store, lambda stream: logs if stream == "feedback" else []
            ).problems
            == []
        )
        assert all(orphan.dead for orphan in find_orphans(self.log.ledger, self.store, "feedback"))


def settings(**values: object) -> dict[str, str]:
    ours = {
        "principal_key": KEY,
        "master_key": MASTER,
        "compaction_settle_minutes": 0,
        "compaction_rows": ROWS_PER_OBJECT,
        "compaction_lease_seconds": LEASE_SECONDS,
        "retired_minutes": 0,
    }
    return {f"TW_FEEDBACK_{key.upper()}": str(value) for key, value in (ours | values).items()}


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Scenario]:
    """Yield a scenario on SQLite and a directory."""
    url, objects = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "objects"
    engine = open_database(url)
    yield Scenario(engine, Directory(objects), settings(database_url=url, object_directory=objects))
    engine.dispose()


@pytest.fixture
def real(postgres: PostgresServer, s3: S3Server) -> Iterator[Scenario]:
    """Yield a scenario on Postgres and SeaweedFS."""
    url, bucket = postgres.database().url("postgresql+pg8000"), s3.bucket()
    engine = connect(url)
    migrate(engine)
    port = int(bucket.endpoint.rpartition(":")[2])
    there = place(port, bucket=bucket.name)
    values = settings(
        database_url=url,
        s3_endpoint=bucket.endpoint,
        s3_bucket=bucket.name,
        s3_secure="false",
        s3_access_key=bucket.access_key,
        s3_secret_key=bucket.secret_key,
    )
    yield Scenario(
        engine,
        S3Store(replace(there, access_key=bucket.access_key, secret_key=bucket.secret_key)),
        values,
    )
    engine.dispose()


def kill_at(scenario: Scenario, step: CompactionStep, times: int) -> None:
    """Kill a compactor at a step during writes and reads, then compact again."""
    for _ in range(2 * ROWS_PER_OBJECT // ROWS_PER_SEGMENT):
        scenario.write()
    with scenario.concurrent_work():
        killed = scenario.start("SIGKILL", step, times)
        killed.communicate(timeout=TIMEOUT_SECONDS)
        assert killed.returncode == -signal.SIGKILL, f"{step} was never reached"
        assert scenario.is_leased()
        scenario.compact()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "steps",
    [[CompactionStep.PUBLISHED], pytest.param(list(CompactionStep), marks=pytest.mark.long)],
    ids=["once published", "everywhere"],
)
def test_f27_killed_compaction_leaves_all_rows_once(
    embedded: Scenario, steps: list[CompactionStep]
) -> None:
    for number, step in enumerate(steps):
        kill_at(embedded, step, 1 + number % 2)
    embedded.check()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "steps",
    [
        [CompactionStep.STORED, CompactionStep.PUBLISHED],
        pytest.param(list(CompactionStep), marks=pytest.mark.long),
    ],
    ids=["around the publishing", "everywhere"],
)
def test_f27_killed_compaction_leaves_all_rows_once_on_real_servers(
    real: Scenario, steps: list[CompactionStep]
) -> None:
    for step in steps:
        kill_at(real, step, 1)
    real.check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "step", [CompactionStep.STORED, pytest.param(CompactionStep.DELETED, marks=pytest.mark.long)]
)
def test_f27_a_frozen_and_overtaken_compactor_publishes_and_deletes_nothing(
    embedded: Scenario, step: CompactionStep
) -> None:
    for _ in range(20):
        embedded.write()
    with embedded.concurrent_work():
        frozen = embedded.start("SIGSTOP", step, 1)
        try:
            embedded.until(lambda: process_state(frozen.pid) == "T")
            overtaken = embedded.compact()
            assert overtaken.complete
        finally:
            frozen.send_signal(signal.SIGCONT)
        out, _ = frozen.communicate(timeout=TIMEOUT_SECONDS)
    assert frozen.returncode == 1
    assert re.search(rb"^feedback\b.*\bepoch 1\b", out, re.MULTILINE)  # the overtaken epoch
    embedded.check()


def process_state(pid: int) -> str:
    """Return the state of a process; T means stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
