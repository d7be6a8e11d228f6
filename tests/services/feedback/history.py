"""History checker: acknowledged events of clients against the rows of the public reader.

The checked invariants are A to E of the durability page. A: acknowledged events are a subset of the
snapshot. B: each event exists once. C: offsets are contiguous and accounted for. D: all events were
sent, with the acknowledged content. E: events of a conversation are in order.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from services.feedback.lake import parquet
from services.feedback.lake.ledger import Segment
from tests.services.feedback.objects import decode

PartitionKey = tuple[str, int]
"""Topic id and partition of a log."""


class Catalogue(Protocol):
    """Source of committed segments."""

    def segments(self, stream: str) -> list[Segment]: ...


class Store(Protocol):
    """Source of objects by key."""

    def get(self, key: str) -> bytes: ...


@dataclass
class History:
    """Events of the clients.

    A conversation sends its next event only after the acknowledgement of the previous event.
    """

    sent: dict[str, list[str]] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)


def violations(
    history: History,
    ledger: Catalogue,
    store: Store,
    stream: str,
    ends: Mapping[PartitionKey, int],
    decode: Callable[[bytes], list[parquet.Row]] = decode,
) -> list[str]:
    """Return all violated invariants.

    Args:
        ends: Offset after the last record of every log, past logs included.
    """
    found: list[str] = []
    rows: list[tuple[int, parquet.Row]] = []
    reached: dict[PartitionKey, int] = {}
    sequence = 0
    for segment in ledger.segments(stream):
        place = (segment.topic_id, segment.partition)
        if segment.sequence != sequence + 1:
            found.append(f"C: sequence {segment.sequence} follows {sequence}")
        if segment.start_offset != reached.get(place, 0):
            found.append(
                f"C: segment {segment.sequence} begins at {segment.start_offset}, "
                f"not {reached.get(place, 0)}"
            )
        sequence, reached[place] = segment.sequence, segment.end_offset
        here = decode(store.get(segment.object_key)) if segment.object_key else []
        found += _segment_violations(segment, here)
        rows += [(segment.sequence, row) for row in here]
    for place in ends.keys() | reached.keys():
        if reached.get(place, 0) != ends.get(place, 0):
            found.append(
                f"C: the ledger of {place} ends at {reached.get(place, 0)}, "
                f"the log at {ends.get(place, 0)}"
            )
    return found + _event_violations(history, rows)


def _segment_violations(segment: Segment, rows: Collection[parquet.Row]) -> list[str]:
    found = []
    accounted = len(rows) + segment.dead_letters + segment.tombstones
    if accounted != segment.end_offset - segment.start_offset or segment.tombstones < 0:
        found.append(f"C: segment {segment.sequence} accounts for {accounted} offsets")
    if not {row["offset"] for row in rows} <= set(range(segment.start_offset, segment.end_offset)):
        found.append(f"C: segment {segment.sequence} has rows of other offsets")
    return found


def _event_violations(history: History, rows: list[tuple[int, parquet.Row]]) -> list[str]:
    times = Counter(str(row["event_id"]) for _, row in rows)
    sent = {event_id for events in history.sent.values() for event_id in events}
    found = [
        f"A: {event_id} was acknowledged and is not there"
        for event_id in history.acknowledged - set(times)
    ]
    found += [
        f"B: {event_id} is there {number} times" for event_id, number in times.items() if number > 1
    ]
    found += [f"D: nobody sent {event_id}" for event_id in set(times) - sent]
    in_order = [str(row["event_id"]) for _, row in sorted(rows, key=_accepted)]
    place = {event_id: number for number, event_id in enumerate(dict.fromkeys(in_order))}
    for conversation, events in history.sent.items():
        places = [place[event_id] for event_id in events if event_id in place]
        if places != sorted(places):
            found.append(f"E: {conversation} is out of order")
    return found


def _accepted(placed: tuple[int, parquet.Row]) -> tuple[int, int, int]:
    """Return the sort key of training's reader: order of acceptance, else ledger position."""
    sequence, row = placed
    return int(str(row.get("accept_order") or 0)), sequence, int(str(row["offset"]))
