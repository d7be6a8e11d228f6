"""Proves from store, ledger and log that every offset is accounted for and no event is there twice.

Trusts none of the three: objects are fetched, hashed and read. May run beside the service.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.compacted_segments import PAGE_SIZE, ReadableSegment
from services.feedback.lake.ledger import Ledger, Segment
from services.feedback.lake.ledger_window import LedgerWindow, PartitionKey, partition_of
from services.feedback.lake.object_store import ObjectStore
from services.feedback.lake.orphans import find_orphans
from services.feedback.lake.processed_ids import ProcessedIds
from services.feedback.lake.segment_object import SEQUENCE, DamagedObjectError, read_segment
from services.feedback.spool.log import LogView

# What is compared. With all of them a compacted object of 50,000 rows took more memory than a
# replica has, whose pod this runs in.
AUDITED_COLUMNS = ("topic_id", "partition", "offset", "event_id", SEQUENCE)
# Compaction may delete what was listed before it was read: then the listing goes on from there
# anew.
MAX_TRIES = 3


@dataclass
class PartitionFigures:
    """What was counted in one partition of one topic."""

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
    """What became of the rows of a stream's covered segments."""

    stream: str
    covers: int = 0
    segments: int = 0
    rows: int = 0
    duplicates: int = 0
    erased: int = 0
    expired: int = 0


@dataclass(frozen=True)
class Problem:
    """A finding of the audit: `field` names the stream, segment or cover, `reason` is a stable code
    of this kind of fault.
    """

    field: str
    reason: str
    text: str

    def __str__(self) -> str:
        return f"{self.field}: {self.text}"


@dataclass
class Report:
    """Figures, and what is wrong; sound if nothing is."""

    figures: list[PartitionFigures] = field(default_factory=list)
    covers: list[CompactionFigures] = field(default_factory=list)
    orphans: int = 0
    problems: list[Problem] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{f.stream} topic={f.topic_id} partition={f.partition} segments={f.segments} offsets=0-{f.end_offset} "
            f"rows={f.rows} dead_letters={f.dead_letters} tombstones={f.tombstones} waiting={f.waiting}"
            for f in self.figures
        ]
        lines += [
            f"{c.stream} covers={c.covers} segments={c.segments} rows={c.rows} duplicates={c.duplicates} "
            f"erased={c.erased} expired={c.expired}"
            for c in self.covers
            if c.covers
        ]
        verdict = (
            f"{len(self.problems)} problems" if self.problems else "every offset is accounted for"
        )
        return [*lines, *map(str, self.problems), f"orphans={self.orphans} {verdict}"]


def audit(
    ledger: Ledger,
    store: ObjectStore,
    look: Callable[[Stream], Iterable[LogView]],
    page: int = PAGE_SIZE,
) -> Report:
    """Check all streams; `look` tells of each partition of a stream's log, that is, of its topic,
    or of the spool where there is none.

    The log between ledger and ledger: a service that runs meanwhile may append, commit, trim and
    compact. What it compacts is counted as it was and as it is.
    """
    report = Report()
    for stream in Stream:
        with closing(ProcessedIds()) as seen:
            checked = _StreamAudit(stream, ledger, store, seen, page)
            checked.run()
        report.problems += checked.problems
        for log in look(stream):
            _check_log(stream, log, checked.figures, ledger, report)
        report.figures += checked.figures.values()
        report.covers.append(checked.compaction_figures)
        report.orphans += sum(1 for _ in find_orphans(ledger, store, stream))
    return report


class _StreamAudit:
    """One stream: its segments by what the ledger says of them, and what readers are given by what
    is in it.
    """

    def __init__(
        self, stream: Stream, ledger: Ledger, store: ObjectStore, seen: ProcessedIds, page: int
    ) -> None:
        self._stream, self._ledger, self._store, self._seen = stream, ledger, store, seen
        self.problems: list[Problem] = []
        self.figures: dict[PartitionKey, PartitionFigures] = {}
        self.compaction_figures = CompactionFigures(stream)
        self._page, self._window = page, LedgerWindow(ledger, stream, page)
        # Up to which sequence the segments, and what readers are given, are checked.
        self._accounted = self._reached = 0
        self._tries = 0

    def run(self) -> None:
        """Once."""
        while page := self._ledger.readable_segments(self._stream, self._reached, self._page):
            for item in page:
                if not self._check_readable(item):
                    break
        while segments := self._window.segments(self._accounted + 1, self._accounted + self._page):
            self._check_segments(segments)

    def _check_segments(self, segments: Sequence[Segment]) -> None:
        """Those that are not checked yet."""
        for segment in segments:
            if segment.sequence > self._accounted:
                if segment.sequence != self._accounted + 1:
                    text = f"sequence {segment.sequence} stands where {self._accounted + 1} should"
                    self.problems.append(Problem(self._stream, "SEQUENCE_MISSING", text))
                self._accounted = segment.sequence
                self._check_segment(segment)

    def _check_segment(self, segment: Segment) -> None:
        place = partition_of(segment)
        name, found = (
            _name(segment),
            self.figures.setdefault(place, PartitionFigures(self._stream, *place)),
        )
        if segment.start_offset != found.end_offset:
            text = f"begins at {segment.start_offset}, the ledger was at {found.end_offset}"
            self.problems.append(Problem(name, "OFFSETS_MISSING", text))
        offsets = range(segment.start_offset, segment.end_offset)
        dead = self._window.dead_letters(segment) & set(offsets)
        if len(dead) != segment.dead_letters:
            text = f"{len(dead)} dead letters are not what the ledger says"
            self.problems.append(Problem(name, "DEAD_LETTERS_MISMATCH", text))
        if segment.rows + segment.dead_letters + segment.tombstones != len(offsets):
            text = f"rows, dead letters and tombstones are not its {len(offsets)} offsets"
            self.problems.append(Problem(name, "OFFSETS_MISMATCH", text))
        found.segments, found.end_offset = found.segments + 1, segment.end_offset
        found.rows += segment.rows
        found.dead_letters += len(dead)
        found.tombstones += segment.tombstones

    def _check_readable(self, item: ReadableSegment) -> bool:
        """False: it was replaced since it was listed, and so may be what follows it."""
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
        self._check_range(item)
        if problem:
            self.problems.append(problem)
        else:
            self._check_rows(item, rows, below)
        self._reached, self._tries = item.sequence, 0
        return True

    def _check_range(self, item: ReadableSegment) -> None:
        """What readers are given is every sequence once. A cover over what was checked has been
        published meanwhile.
        """
        follows = item.first_sequence == self._reached + 1
        if not follows and not (
            item.first_sequence <= self._reached < item.sequence and self._is_current(item)
        ):
            text = f"begins at {item.first_sequence}, readers were at {self._reached}"
            self.problems.append(Problem(_name(item), "SEQUENCE_MISMATCH", text))

    def _is_current(self, item: ReadableSegment) -> bool:
        """Readers are given it in the place of all of its sequences, now."""
        return self._ledger.readable_segments(self._stream, item.first_sequence - 1, 1) == [item]

    def _check_rows(
        self, item: ReadableSegment, rows: Sequence[parquet.Row], below: Sequence[Segment]
    ) -> None:
        where = [(int(str(row["sequence"])), int(str(row["offset"]))) for row in rows]
        if where != sorted(set(where)) or not all(self._is_in_place(row, below) for row in rows):
            text = "rows are out of range, out of order, twice, or dead letters too"
            self.problems.append(Problem(_name(item), "ROWS_OUT_OF_PLACE", text))
        if len(rows) != item.rows:
            self.problems.append(
                Problem(
                    _name(item), "ROWS_MISMATCH", f"{len(rows)} rows are not what the ledger says"
                )
            )
        if item.rows + item.duplicates + item.erased + item.expired != sum(
            segment.rows for segment in below
        ):
            text = "its rows and those left out are not those of its segments"
            self.problems.append(Problem(_name(item), "LEFT_OUT_MISMATCH", text))
        event_ids = {str(row["event_id"]) for row in rows}
        new = {
            str(row["event_id"])
            for row, (sequence, _) in zip(rows, where, strict=True)
            if sequence > self._reached
        }
        if not self._seen.add(new) or len(event_ids) != len(rows):
            self.problems.append(Problem(_name(item), "DUPLICATE", "an event is there twice"))
        if item.is_compacted:
            self._count(item, len(below))

    def _is_in_place(self, row: parquet.Row, below: Sequence[Segment]) -> bool:
        """Its sequence, topic, partition and offset are those of one of the segments."""
        at = int(str(row["sequence"])) - below[0].sequence if below else -1
        if not 0 <= at < len(below):
            return False
        segment, offset = below[at], int(str(row["offset"]))
        is_there = (
            segment.start_offset <= offset < segment.end_offset
            and offset not in self._window.dead_letters(segment)
        )
        return is_there and (row["topic_id"], row["partition"]) == partition_of(segment)

    def _count(self, cover: ReadableSegment, segments: int) -> None:
        found = self.compaction_figures
        found.covers += 1
        found.segments += segments
        found.rows += cover.rows
        found.duplicates += cover.duplicates
        found.erased += cover.erased
        found.expired += cover.expired


def _check_log(
    stream: str,
    log: LogView,
    figures: dict[PartitionKey, PartitionFigures],
    ledger: Ledger,
    report: Report,
) -> None:
    place = (log.topic_id, log.partition)
    found = figures.setdefault(place, PartitionFigures(stream, *place))
    committed = ledger.end_offset(*place)
    if log.start_offset > committed:
        text = f"offsets {committed} to {log.start_offset} are neither in ledger nor log"
        report.problems.append(Problem(stream, "OFFSETS_LOST", text))
    if log.end_offset < found.end_offset:
        text = f"the log ends at {log.end_offset}, before the ledger's {found.end_offset}"
        report.problems.append(Problem(stream, "LOG_TOO_SHORT", text))
    found.waiting = max(0, log.end_offset - found.end_offset)


def _name(item: Segment | ReadableSegment) -> str:
    if isinstance(item, ReadableSegment) and item.is_compacted:
        return f"{item.stream} cover of {item.first_sequence} to {item.sequence}"
    return f"{item.stream} segment {item.sequence}"
