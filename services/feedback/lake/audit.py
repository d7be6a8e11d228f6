"""Audit of store, ledger and log: every offset is accounted for, every event exists once.

The audit trusts none of the three: objects are fetched, hashed and read. The service may run
meanwhile.
"""

import sqlite3
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger, Segment
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.orphans import find_orphans
from services.feedback.lake.readable_segments import (
    PAGE_SIZE,
    SEQUENCE,
    DamagedObjectError,
    ReadableSegment,
    read_segment,
)
from services.feedback.spool.log import LogView

# Compared columns. All columns of a compacted object of 50,000 rows exceeded the memory of a
# replica, and the audit runs in the replica's pod.
AUDITED_COLUMNS = ("topic_id", "partition", "offset", "event_id", SEQUENCE)
# Compaction may delete an object between listing and reading; the listing is then repeated from
# that position.
MAX_TRIES = 3
# Up to about a million ids stay in memory. TMPDIR selects the folder for the rest.
CACHE_KIB = 65_536

PartitionKey = tuple[str, int]
"""Topic id and partition of a log."""


@dataclass
class PartitionFigures:
    """Counts of one partition of one topic."""

    stream: str
    topic_id: str
    partition: int
    segments: int = 0
    end_offset: int = 0
    rows: int = 0
    dead_letters: int = 0
    tombstones: int = 0
    waiting: int = 0


@dataclass
class CompactionFigures:
    """Counts of the rows below compacted segments of a stream."""

    stream: str
    covers: int = 0
    segments: int = 0
    rows: int = 0
    duplicates: int = 0
    erased: int = 0
    expired: int = 0


@dataclass(frozen=True)
class Problem:
    """Finding of the audit.

    `field` names the stream or segment; `reason` is a stable code of the kind of fault.
    """

    field: str
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


@dataclass
class Report:
    """Counts and problems; an empty list of problems means a consistent table."""

    figures: list[PartitionFigures] = field(default_factory=list)
    covers: list[CompactionFigures] = field(default_factory=list)
    orphans: int = 0
    problems: list[Problem] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        lines = [
            f"{f.stream} topic={f.topic_id} partition={f.partition} segments={f.segments} "
            f"offsets=0-{f.end_offset} rows={f.rows} dead_letters={f.dead_letters} "
            f"tombstones={f.tombstones} waiting={f.waiting}"
            for f in self.figures
        ]
        lines += [
            f"{c.stream} covers={c.covers} segments={c.segments} rows={c.rows} "
            f"duplicates={c.duplicates} erased={c.erased} expired={c.expired}"
            for c in self.covers
            if c.covers
        ]
        verdict = (
            f"{len(self.problems)} problems" if self.problems else "every offset is accounted for"
        )
        return [*lines, *map(str, self.problems), f"orphans={self.orphans} {verdict}"]


class ProcessedIds:
    """Growing set of event ids in a temporary file, with constant memory for any number of ids."""

    def __init__(self) -> None:
        self._connection = sqlite3.connect("")
        for setting in (f"cache_size = -{CACHE_KIB}", "journal_mode = OFF", "synchronous = OFF"):
            self._connection.execute(f"PRAGMA {setting}")
        self._connection.execute("CREATE TABLE seen (event_id TEXT PRIMARY KEY) WITHOUT ROWID")

    def add(self, event_ids: Collection[str]) -> bool:
        """Add ids and return True if all of them are new."""
        before = self._connection.total_changes
        rows = ((event_id,) for event_id in sorted(event_ids))
        self._connection.executemany("INSERT OR IGNORE INTO seen VALUES (?)", rows)
        return self._connection.total_changes - before == len(event_ids)

    def close(self) -> None:
        """Close and delete the temporary file."""
        self._connection.close()


def audit(
    ledger: Ledger,
    store: ObjectStore,
    look: Callable[[Stream], Iterable[LogView]],
    page: int = PAGE_SIZE,
) -> Report:
    """Audit all streams.

    The service may append, commit, trim and compact meanwhile, because the log is read between two
    reads of the ledger. Segments compacted meanwhile are checked in both forms.

    Args:
        look: Returns the partitions of a stream's log: of the topic, or of the spool without Kafka.
        page: Number of segments read at once.
    """
    report = Report()
    for stream in Stream:
        with closing(ProcessedIds()) as seen:
            checked = _StreamAudit(stream, ledger, store, seen, page)
            checked.run()
        report.problems += checked.problems
        for log in look(stream):
            place = (log.topic_id, log.partition)
            found = checked.figures.setdefault(place, PartitionFigures(stream, *place))
            committed = ledger.end_offset(*place)
            if log.start_offset > committed:
                text = f"offsets {committed} to {log.start_offset} are in neither ledger nor log"
                report.problems.append(Problem(stream, "OFFSETS_LOST", text))
            if log.end_offset < found.end_offset:
                text = f"the log ends at {log.end_offset}, the ledger at {found.end_offset}"
                report.problems.append(Problem(stream, "LOG_TOO_SHORT", text))
            found.waiting = max(0, log.end_offset - found.end_offset)
        report.figures += checked.figures.values()
        report.covers.append(checked.compaction_figures)
        report.orphans += sum(1 for _ in find_orphans(ledger, store, stream))
    return report


class _StreamAudit:
    """Audit of one stream: segments against the ledger, and objects against their content."""

    def __init__(
        self, stream: Stream, ledger: Ledger, store: ObjectStore, seen: ProcessedIds, page: int
    ) -> None:
        self._stream, self._ledger, self._store, self._seen = stream, ledger, store, seen
        self.problems: list[Problem] = []
        self.figures: dict[PartitionKey, PartitionFigures] = {}
        self.compaction_figures = CompactionFigures(stream)
        self._page, self._window = page, LedgerWindow(ledger, stream, page)
        # Last checked sequence of the segments, and of the readable segments.
        self._accounted = self._reached = 0
        self._tries = 0

    def run(self) -> None:
        """Check the readable segments, then the remaining segments of the ledger."""
        while page := self._ledger.readable_segments(self._stream, self._reached, self._page):
            for item in page:
                if not self._check_readable(item):
                    break
        while segments := self._window.segments(self._accounted + 1, self._accounted + self._page):
            self._check_segments(segments)

    def _check_segments(self, segments: Sequence[Segment]) -> None:
        """Check the segments after the last checked sequence."""
        for segment in segments:
            if segment.sequence > self._accounted:
                if segment.sequence != self._accounted + 1:
                    text = f"sequence {segment.sequence} found instead of {self._accounted + 1}"
                    self.problems.append(Problem(self._stream, "SEQUENCE_MISSING", text))
                self._accounted = segment.sequence
                place = partition_of(segment)
                name = _name(segment)
                found = self.figures.setdefault(place, PartitionFigures(self._stream, *place))
                if segment.start_offset != found.end_offset:
                    text = f"starts at offset {segment.start_offset}, expected {found.end_offset}"
                    self.problems.append(Problem(name, "OFFSETS_MISSING", text))
                offsets = range(segment.start_offset, segment.end_offset)
                dead = self._window.dead_letters(segment) & set(offsets)
                if len(dead) != segment.dead_letters:
                    text = f"{len(dead)} dead letters, the segment lists {segment.dead_letters}"
                    self.problems.append(Problem(name, "DEAD_LETTERS_MISMATCH", text))
                if segment.rows + segment.dead_letters + segment.tombstones != len(offsets):
                    text = (
                        f"rows, dead letters and tombstones do not add up to {len(offsets)} offsets"
                    )
                    self.problems.append(Problem(name, "OFFSETS_MISMATCH", text))
                found.segments, found.end_offset = found.segments + 1, segment.end_offset
                found.rows += segment.rows
                found.dead_letters += len(dead)
                found.tombstones += segment.tombstones

    def _check_readable(self, item: ReadableSegment) -> bool:
        """Check one readable segment; return False if the listing must be repeated."""
        problem: Problem | None = None
        rows: list[parquet.Row] = []
        try:
            rows = parquet.to_rows(read_segment(self._store, item, AUDITED_COLUMNS))
        except DamagedObjectError as error:
            self._tries += 1
            if self._tries < MAX_TRIES and not self._is_current(item):
                return False
            problem = Problem(_name(item), error.reason, str(error))
        below = self._window.segments(item.first_sequence, item.sequence)
        self._check_segments(below)
        # Check for gaps and overlaps in the sequences of the readable segments. A compacted
        # segment may start earlier if it was published during the audit.
        follows = item.first_sequence == self._reached + 1
        if not follows and not (
            item.first_sequence <= self._reached < item.sequence and self._is_current(item)
        ):
            text = f"starts at sequence {item.first_sequence}, expected {self._reached + 1}"
            self.problems.append(Problem(_name(item), "SEQUENCE_MISMATCH", text))
        if problem:
            self.problems.append(problem)
        else:
            self._check_rows(item, rows, below)
        self._reached, self._tries = item.sequence, 0
        return True

    def _is_current(self, item: ReadableSegment) -> bool:
        """Return True if readers still get this object for all of its sequences."""
        return self._ledger.readable_segments(self._stream, item.first_sequence - 1, 1) == [item]

    def _check_rows(
        self, item: ReadableSegment, rows: Sequence[parquet.Row], below: Sequence[Segment]
    ) -> None:
        where = [(int(str(row["sequence"])), int(str(row["offset"]))) for row in rows]
        if where != sorted(set(where)) or not all(self._is_in_place(row, below) for row in rows):
            text = "rows are out of range, out of order, duplicated, or also dead letters"
            self.problems.append(Problem(_name(item), "ROWS_OUT_OF_PLACE", text))
        if len(rows) != item.rows:
            self.problems.append(
                Problem(
                    _name(item), "ROWS_MISMATCH", f"{len(rows)} rows, the ledger lists {item.rows}"
                )
            )
        if item.rows + item.duplicates + item.erased + item.expired != sum(
            segment.rows for segment in below
        ):
            text = "rows and removed rows do not add up to the rows of the segments"
            self.problems.append(Problem(_name(item), "LEFT_OUT_MISMATCH", text))
        event_ids = {str(row["event_id"]) for row in rows}
        new = {
            str(row["event_id"])
            for row, (sequence, _) in zip(rows, where, strict=True)
            if sequence > self._reached
        }
        if not self._seen.add(new) or len(event_ids) != len(rows):
            self.problems.append(Problem(_name(item), "DUPLICATE", "an event is duplicated"))
        if item.is_compacted:
            counts = self.compaction_figures
            counts.covers += 1
            counts.segments += len(below)
            counts.rows += item.rows
            counts.duplicates += item.duplicates
            counts.erased += item.erased
            counts.expired += item.expired

    def _is_in_place(self, row: parquet.Row, below: Sequence[Segment]) -> bool:
        """Return True if the row's position belongs to one of the segments."""
        at = int(str(row["sequence"])) - below[0].sequence if below else -1
        if not 0 <= at < len(below):
            return False
        segment, offset = below[at], int(str(row["offset"]))
        is_there = (
            segment.start_offset <= offset < segment.end_offset
            and offset not in self._window.dead_letters(segment)
        )
        return is_there and (row["topic_id"], row["partition"]) == partition_of(segment)


def _name(item: Segment | ReadableSegment) -> str:
    if isinstance(item, ReadableSegment) and item.is_compacted:
        return f"{item.stream} compacted segment {item.first_sequence} to {item.sequence}"
    return f"{item.stream} segment {item.sequence}"


class LedgerWindow:
    """Window of segments, moved forward on demand.

    Every call may raise LedgerUnavailableError.
    """

    def __init__(self, ledger: Ledger, stream: str, size: int) -> None:
        self._ledger, self._stream, self._size = ledger, stream, size
        self._segments: list[Segment] = []
        self._first, self._last = 1, 0
        self._dead_letters: dict[PartitionKey, set[int]] = {}

    def segments(self, first: int, last: int) -> list[Segment]:
        """Return the segments of a range of sequences, both ends inclusive."""
        if not self._first <= first <= last <= self._last:
            self._segments = self._ledger.segments(
                self._stream, first - 1, max(last, first + self._size - 1) - first + 1
            )
            # Segments committed meanwhile are read with the next window.
            self._first = first
            self._last = max((segment.sequence for segment in self._segments), default=first - 1)
            ends: dict[PartitionKey, tuple[int, int]] = {}
            for segment in self._segments:
                low, high = ends.get(
                    partition_of(segment), (segment.start_offset, segment.end_offset)
                )
                ends[partition_of(segment)] = (
                    min(low, segment.start_offset),
                    max(high, segment.end_offset),
                )
            self._dead_letters = {
                place: self._ledger.dead_letter_offsets(*place, *low_high)
                for place, low_high in ends.items()
            }
        at = [
            bisect_left(self._segments, edge, key=lambda segment: segment.sequence)
            for edge in (first, last + 1)
        ]
        return self._segments[slice(*at)]

    def dead_letters(self, segment: Segment) -> set[int]:
        """Return offsets of the dead letters around a segment returned last."""
        return self._dead_letters[partition_of(segment)]


def partition_of(segment: Segment) -> PartitionKey:
    """Return the log of a segment."""
    return segment.topic_id, segment.partition
