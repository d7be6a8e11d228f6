"""Ledger of several partitions over any store, filled without spools, with compaction."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Engine

from services.feedback.compaction.compaction import Compaction, CompactionOptions, CompactionStep
from services.feedback.compaction.compactors import Compactors
from services.feedback.compaction.runs import RunLimits
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.readable_segments import ReadableSegment, read_segment
from services.feedback.projections.thumbs import fold
from services.feedback.sink import FlushLimits, Sink, StreamFormat
from services.feedback.spool.log import Entry, Record
from services.feedback.wire import feedback_entry, turn_entry
from tests.services.feedback.samples import FEEDBACK, TURNS, thumb, turn

DAY = 86_400
OPTIONS = CompactionOptions(RunLimits(1_000, 1 << 20), 0, 0, 0, 60)


@dataclass
class ListLog:
    """Log of one partition as a list of records."""

    topic_id: str
    partition: int
    records: list[Record] = field(default_factory=list)

    @property
    def start_offset(self) -> int:
        return 0

    @property
    def end_offset(self) -> int:
        return len(self.records)

    def append(self, entry: Entry) -> None:
        self.records.append(Record(len(self.records), 1, entry))

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        return self.records[start : start + max_records]

    def trim(self, before: int) -> None:
        """Keep all records: tests read them again."""


class Erased:
    """Erasures by principal and last erased sequence."""

    def __init__(self) -> None:
        self.principals: dict[str, int] = {}
        self.waiting: set[str] = set()
        self.settled: list[set[str]] = []

    def erase(self, principal: str, through_sequence: int) -> None:
        self.principals[principal] = through_sequence
        self.waiting.add(principal)

    def for_stream(self, stream: Stream) -> "ErasedNow":
        return ErasedNow(self, dict(self.principals), set(self.waiting))


@dataclass
class ErasedNow:
    """Snapshot of the erasures."""

    erased: Erased
    principals: dict[str, int]
    waiting: set[str]

    @property
    def through_sequence(self) -> int | None:
        return max((self.principals[one] for one in self.waiting), default=None)

    def mask(self, rows: pa.Table) -> pa.BooleanArray:
        mask = pa.array([False] * rows.num_rows, pa.bool_())
        for principal, through_sequence in self.principals.items():
            theirs = pc.and_(
                pc.equal(rows["principal"], principal),
                pc.less_equal(rows["sequence"], through_sequence),
            )
            mask = pc.or_(mask, theirs)
        return mask

    def mark_rewritten(self) -> None:
        self.erased.waiting -= self.waiting
        self.erased.settled.append(self.waiting)


class CompactedLog:
    """Partitions of one stream with sinks, compactors, and a clock set by the test."""

    def __init__(
        self, engine: Engine, store: ObjectStore, partitions: int = 1, form: StreamFormat = FEEDBACK
    ) -> None:
        self.engine, self.store, self.form = engine, store, form
        self.ledger = Ledger(engine, now_us=lambda: self.now_us)
        self.compactors = Compactors(engine, clock_us=lambda connection: self.now_us)
        self.erased = Erased()
        self.now_us = 1_000_000_000_000
        self.logs = [ListLog(f"{self.stream:->36}", number) for number in range(partitions)]
        self._numbers = iter(range(1_000_000))

    @property
    def stream(self) -> Stream:
        return self.form.stream

    def commit(self, *entries: Entry, partition: int = 0) -> None:
        """Commit entries as one segment."""
        log = self.logs[partition]
        for entry in entries:
            log.append(entry)
        fold_of = fold if self.form is FEEDBACK else (lambda *_: None)
        sink = Sink(
            self.form, log, self.store, self.ledger, FlushLimits(len(entries), 1 << 30), fold_of
        )
        sink.assign()
        sink.flush()

    def thumbs(self, number: int, partition: int = 0, **how: object) -> list[str]:
        """Commit a number of thumbs as one segment and return their event ids."""
        events = [thumb(f"r{next(self._numbers)}", **how) for _ in range(number)]
        self.commit(*(feedback_entry(event) for event in events), partition=partition)
        return [event.event_id for event in events]

    def turns(self, *messages: str) -> None:
        self.commit(*(turn_entry(turn(message=message)) for message in messages))

    def compaction(
        self,
        options: CompactionOptions = OPTIONS,
        at: Callable[[CompactionStep], None] = lambda step: None,
        store: ObjectStore | None = None,
        ledger: Ledger | None = None,
    ) -> Compaction:
        return Compaction(
            ledger or self.ledger, self.compactors, store or self.store, self.erased, options, at
        )

    def pass_seconds(self, seconds: float) -> None:
        self.now_us += int(seconds * 1_000_000)

    def readable_segments(self) -> list[ReadableSegment]:
        return self.ledger.readable_segments(self.stream)

    def shape(self) -> list[tuple[int, int, int]]:
        """Return first sequence, last sequence and rows of all readable segments."""
        return [
            (item.first_sequence, item.sequence, item.rows) for item in self.readable_segments()
        ]

    def rows(self) -> list[parquet.Row]:
        """Return all readable rows in the reader's order."""
        return [
            row
            for item in self.readable_segments()
            for row in parquet.to_rows(read_segment(self.store, item))
        ]

    def ids(self) -> list[str]:
        columns = [
            read_segment(self.store, item, ["event_id"]) for item in self.readable_segments()
        ]
        return [
            event_id
            for rows in columns
            if rows.num_rows
            for event_id in rows["event_id"].to_pylist()
        ]

    def keys(self, prefix: str = "") -> Collection[str]:
        return {found.key for found in self.store.list(prefix)}


def turns_log(engine: Engine, store: ObjectStore) -> CompactedLog:
    return CompactedLog(engine, store, form=TURNS)
