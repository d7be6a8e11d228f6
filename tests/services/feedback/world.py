"""Simulation of one replica: real spool, acceptance, sink and ledger, with faults by seed.

Faults: crashes at each step of acceptance and sink, torn unsynced bytes, a zombie writer after a
takeover, lost acknowledgements of put and commit, failed puts, duplicate records, and undecodable
records.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from thumbwheel.feedback.v1 import events_pb2

from services.chassis.errors import UnavailableError
from services.feedback import wire as codec
from services.feedback.lake.ledger import Batch, InTransaction, Lease, Ledger, Segment
from services.feedback.lake.object_store import ObjectStoreError
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.sealing import MasterKey, Sealer
from services.feedback.projections.thumbs import fold
from services.feedback.sink import FlushLimits, Sink, SinkStep
from services.feedback.spool.accept import Acceptance, NoClaims
from services.feedback.spool.log import Entry, Record
from services.feedback.spool.spool import Device, Spool
from services.feedback.store.database import FencedError, LedgerUnavailableError
from tests.services.feedback.databases import memory_sqlite
from tests.services.feedback.faults import CrashError, Faults
from tests.services.feedback.history import Catalogue, History, PartitionKey, violations
from tests.services.feedback.memory import MemoryStore
from tests.services.feedback.samples import FEEDBACK, MASTER, garbage, thumb

CONVERSATIONS = 4


class ForgetfulLedger(Ledger):
    """Ledger that sometimes loses the response of a commit."""

    faults: Faults

    def commit(
        self, lease: Lease, batch: Batch, in_transaction: InTransaction
    ) -> tuple[Lease, Segment]:
        result = super().commit(lease, batch, in_transaction)
        if self.faults.strike("commit ack lost", 0.05):
            raise LedgerUnavailableError("lost")
        return result


class Disk:
    """Disk model that knows the synced bytes, and sometimes fails a write."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self.synced: dict[str, int] = {}

    def device(self) -> Device:
        return Device(self._write, self._sync)

    def _write(self, descriptor: int, data: memoryview, position: int) -> int:
        # Bytes present when the file was opened are durable, since recovery syncs them.
        self.synced.setdefault(_path(descriptor), position)
        if self._faults.strike("crash in write", 0.02):
            os.pwrite(descriptor, data[: self._faults.random.randrange(len(data))], position)
            raise CrashError
        if self._faults.strike("disk full", 0.02):
            os.pwrite(descriptor, data[: len(data) // 2], position)
            raise OSError(28, "no space left")
        return os.pwrite(descriptor, data, position)

    def _sync(self, descriptor: int) -> None:
        if self._faults.strike("crash before sync", 0.02):
            raise CrashError
        self.synced[_path(descriptor)] = os.fstat(descriptor).st_size

    def tear(self) -> None:
        """Simulate power loss: any part of the unsynced bytes remains."""
        for path, size in self.synced.items():
            if Path(path).exists():
                present = Path(path).stat().st_size
                os.truncate(path, self._faults.random.randint(min(size, present), present))
        self.synced.clear()


def _path(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


class World:
    """One service with a spool, a store, a database and clients.

    Mutants override the parts.
    """

    ledger_kind: type[ForgetfulLedger] = ForgetfulLedger
    sink_kind: type[Sink] = Sink
    disk_kind: type[Disk] = Disk
    store_kind: type[MemoryStore] = MemoryStore
    keys_kind: type[DataKeys] = DataKeys

    def __init__(self, seed: int, directory: Path) -> None:
        self.faults = Faults(seed)
        self.store, self.disk = self.store_kind(self.faults), self.disk_kind(self.faults)
        self.engine = memory_sqlite()
        self.ledger = self.ledger_kind(self.engine, now_us=lambda: 1)
        self.ledger.faults = self.faults
        master = MasterKey(MASTER)
        self.keys = self.keys_kind(self.engine, master)
        self.sealer = Sealer(
            events_pb2.FeedbackEvent, codec.extract_feedback_texts, self.keys, master
        )
        self.history = History({f"c{number}": [] for number in range(CONVERSATIONS)})
        self._directory, self._numbers = directory, iter(range(1_000_000))
        self._waiting: dict[str, str] = {}
        self._running = False
        self._start()

    def run(self, steps: int) -> None:
        """Run steps with faults, then restart without faults and sink all records."""
        for _ in range(steps):
            try:
                self.faults.random.choice(self.moves())()
            except CrashError:
                self._restart()
        self.faults.on = False
        self._restart()
        for conversation in list(self._waiting):
            self._send([conversation])
        self._sink_all()

    def moves(self) -> list[Callable[[], None]]:
        """Return the possible moves, weighted by repetition."""
        return [self._submit, self._submit, self._flush, self._pollute]

    def catalogue(self) -> Catalogue:
        """Return the source of segments for readers."""
        return self.ledger

    def ends(self) -> dict[PartitionKey, int]:
        return {(self.spool.topic_id, 0): self.spool.end_offset}

    def problems(self) -> list[str]:
        """Return all violated invariants."""
        return violations(self.history, self.catalogue(), self.store, "feedback", self.ends())

    def close(self) -> None:
        self._stop()
        self.engine.dispose()

    def _start(self) -> None:
        self.spool = Spool(
            self._directory,
            max_bytes=1 << 20,
            segment_bytes=2_000,
            device=self.disk.device(),
            now_us=lambda: 1,
        )
        self._running = True
        self.sink = self._new_sink()
        self.acceptance = Acceptance(
            FEEDBACK.stream, self.spool, self.ledger, NoClaims(), self.sealer
        )
        self.acceptance.remember(self.spool.read(self.sink.position, 1_000, 1 << 20))

    def _stop(self) -> None:
        """Close the spool; may be called twice, after a failed restart of a mutant."""
        if self._running:
            self.spool.close()
        self._running = False

    def _restart(self) -> None:
        self._stop()
        self.disk.tear()
        self._start()

    def _new_sink(self) -> Sink:
        limits = FlushLimits(self.faults.random.randint(1, 12), 1 << 20)
        sink = self.sink_kind(FEEDBACK, self.spool, self.store, self.ledger, limits, fold, self._at)
        sink.assign()
        return sink

    def _submit(self) -> None:
        conversations = self.faults.random.sample(
            sorted(self.history.sent), self.faults.random.randint(1, CONVERSATIONS)
        )
        for conversation in conversations:
            if conversation not in self._waiting:
                request = f"r{next(self._numbers)}"
                self._waiting[conversation] = request
                self.history.sent[conversation].append(
                    self._event(conversation, request, 0).event_id
                )
        self._send(conversations)

    def _send(self, conversations: Sequence[str]) -> None:
        """Store one group; clients without an acknowledgement resend events at another time."""
        again = self.faults.random.randint(1, 1_000)
        events = [
            self._event(conversation, self._waiting[conversation], again)
            for conversation in conversations
        ]
        stored = self.acceptance.store([[codec.feedback_entry(event)] for event in events])
        if self.faults.strike("crash before reply", 0.05):
            raise CrashError
        for conversation, event, result in zip(conversations, events, stored.results, strict=True):
            if isinstance(result, int):
                self.history.acknowledged.add(event.event_id)
                del self._waiting[conversation]

    def _event(self, conversation: str, request: str, at: int) -> events_pb2.FeedbackEvent:
        return thumb(request, message=conversation, at=1_000 + at)

    def _pollute(self) -> None:
        """Append records like a relay or a foreign writer."""
        if self.faults.strike("record twice in the log", 0.2) and self._newest():
            self._append(self._newest()[-1].entry)
        if self.faults.strike("undecodable record", 0.1):
            self._append(garbage(str(next(self._numbers))))

    def _newest(self) -> list[Record]:
        return self.spool.read(self.spool.start_offset, 1_000, 1 << 20)

    def _append(self, entry: Entry) -> None:
        try:
            self.spool.append([entry])
        except UnavailableError:
            self.faults.counts["refused"] += 1

    def _flush(self) -> None:
        sink = self.sink
        try:
            sink.flush()
            if self.sink is sink:
                self.acceptance.forget(sink.position)
        except (FencedError, ObjectStoreError, LedgerUnavailableError) as error:
            self.faults.counts[type(error).__name__] += 1
            if self.sink is sink:
                sink.assign()

    def _at(self, step: SinkStep) -> None:
        if self.faults.strike(f"crash at {step}", 0.04):
            raise CrashError
        if step is not SinkStep.TRIMMED and self.faults.strike(f"zombie at {step}", 0.06):
            # The caller is paused here. Another sink takes over and works, then the caller
            # continues as a zombie.
            self.sink = self._new_sink()
            for _ in range(self.faults.random.randint(0, 2)):
                self._flush()

    def _sink_all(self) -> None:
        while self.sink.flush():
            pass
