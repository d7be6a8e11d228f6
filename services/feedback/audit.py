"""Proves from store, ledger and log that every offset is accounted for and no event is there twice.

Trusts none of the three: objects are fetched, hashed and read. May run beside the service.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from services.feedback import parquet
from services.feedback.events import Stream
from services.feedback.ledger import Ledger, Segment
from services.feedback.log import LogView
from services.feedback.object_store import ObjectMissingError, ObjectStore
from services.feedback.orphans import find_orphans


@dataclass
class Figures:
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
class Report:
    """Figures, and what is wrong; sound if nothing is."""

    figures: list[Figures] = field(default_factory=list)
    orphans: int = 0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people."""
        lines = [
            f"{f.stream} topic={f.topic_id} partition={f.partition} segments={f.segments} offsets=0-{f.end_offset} "
            f"rows={f.rows} dead_letters={f.dead_letters} tombstones={f.tombstones} waiting={f.waiting}"
            for f in self.figures
        ]
        verdict = f"{len(self.problems)} problems" if self.problems else "every offset is accounted for"
        return [*lines, *self.problems, f"orphans={self.orphans} {verdict}"]


def audit(ledger: Ledger, store: ObjectStore, look: Callable[[Stream], Iterable[LogView]]) -> Report:
    """Check all streams; `look` tells of each partition of a stream's log, that is, of its topic, or of the spool where there is none.

    The log between ledger and ledger: a service that runs meanwhile may append, commit and trim.
    """
    report = Report()
    for stream in Stream:
        segments = ledger.segments(stream)
        _check_sequences(segments, report)
        figures: dict[tuple[str, int], Figures] = {}
        seen: set[str] = set()
        for segment in segments:
            place = (segment.topic_id, segment.partition)
            found = figures.setdefault(place, Figures(stream, *place))
            _check_segment(segment, found, ledger, store, seen, report)
        for log in look(stream):
            _check_log(stream, log, figures, ledger, report)
        report.figures += figures.values()
        report.orphans += len(find_orphans(ledger, store, stream))
    return report


def _check_sequences(segments: Iterable[Segment], report: Report) -> None:
    """The sequence counts a stream's segments over all partitions and topics."""
    for expected, segment in enumerate(segments, start=1):
        if segment.sequence != expected:
            report.problems.append(f"{segment.stream}: sequence {segment.sequence} stands where {expected} should")


def _check_segment(
    segment: Segment, found: Figures, ledger: Ledger, store: ObjectStore, seen: set[str], report: Report
) -> None:
    name = f"{segment.stream} segment {segment.sequence}"
    if segment.start_offset != found.end_offset:
        report.problems.append(f"{name}: begins at {segment.start_offset}, the ledger was at {found.end_offset}")
    offsets = range(segment.start_offset, segment.end_offset)
    rows = _rows(segment, name, store, report)
    row_offsets = [int(str(row["offset"])) for row in rows]
    dead = ledger.dead_letter_offsets(segment.topic_id, segment.partition) & set(offsets)
    if row_offsets != sorted(set(row_offsets) & set(offsets) - dead):
        report.problems.append(f"{name}: rows are out of range, out of order, twice, or dead letters too")
    if len(rows) != segment.rows or len(dead) != segment.dead_letters:
        report.problems.append(f"{name}: {len(rows)} rows and {len(dead)} dead letters are not what the ledger says")
    if segment.rows + segment.dead_letters + segment.tombstones != len(offsets):
        report.problems.append(f"{name}: rows, dead letters and tombstones are not its {len(offsets)} offsets")
    event_ids = [str(row["event_id"]) for row in rows]
    if len(set(event_ids)) != len(event_ids) or not seen.isdisjoint(event_ids):
        report.problems.append(f"{name}: an event is there twice")
    seen.update(event_ids)
    found.segments, found.end_offset = found.segments + 1, segment.end_offset
    found.rows += len(rows)
    found.dead_letters += len(dead)
    found.tombstones += segment.tombstones


def _rows(segment: Segment, name: str, store: ObjectStore, report: Report) -> list[parquet.Row]:
    if not segment.object_key:
        return []
    try:
        data = store.get(segment.object_key)
    except ObjectMissingError:
        report.problems.append(f"{name}: its object is missing")
        return []
    if hashlib.sha256(data).hexdigest() != segment.sha256:
        report.problems.append(f"{name}: its object is not what was committed")
        return []
    return parquet.decode(data)


def _check_log(
    stream: str, log: LogView, figures: dict[tuple[str, int], Figures], ledger: Ledger, report: Report
) -> None:
    place = (log.topic_id, log.partition)
    found = figures.setdefault(place, Figures(stream, *place))
    committed = ledger.end_offset(*place)
    if log.start_offset > committed:
        report.problems.append(f"{stream}: offsets {committed} to {log.start_offset} are neither in ledger nor log")
    if log.end_offset < found.end_offset:
        report.problems.append(f"{stream}: the log ends at {log.end_offset}, before the ledger's {found.end_offset}")
    found.waiting = max(0, log.end_offset - found.end_offset)
