"""The history checker: what clients were told, against what the public reader finds. Invariants A to E of issue 3's page.

A acknowledged ⊆ snapshot · B each event once · C offsets contiguous and accounted for · D nothing that nobody sent
· E order of each conversation.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from services.feedback import parquet
from services.feedback.ledger import Segment
from services.feedback.object_store import ObjectStore


class Catalogue(Protocol):
    """Tells readers what counts."""

    def segments(self, stream: str) -> list[Segment]: ...


@dataclass
class History:
    """What happened at the clients: each conversation sends one event at a time, and the next after its ack."""

    sent: dict[str, list[str]] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)


def violations(history: History, ledger: Catalogue, store: ObjectStore, stream: str, log_end: int) -> list[str]:
    """Every invariant that does not hold; empty if all do."""
    found: list[str] = []
    rows: list[parquet.Row] = []
    end = 0
    for segment in ledger.segments(stream):
        if segment.start_offset != end:
            found.append(f"C: segment {segment.sequence} begins at {segment.start_offset}, not at {end}")
        end = segment.end_offset
        here = parquet.decode(store.get(segment.object_key)) if segment.object_key else []
        offsets = [row["offset"] for row in here]
        accounted = len(here) + segment.dead_letters + segment.tombstones
        if accounted != segment.end_offset - segment.start_offset or segment.tombstones < 0:
            found.append(f"C: segment {segment.sequence} accounts for {accounted} offsets")
        if not set(offsets) <= set(range(segment.start_offset, segment.end_offset)):
            found.append(f"C: segment {segment.sequence} has rows of other offsets")
        rows += here
    if end != log_end:
        found.append(f"C: the ledger ends at {end}, the log at {log_end}")
    return found + _event_violations(history, rows)


def _event_violations(history: History, rows: list[parquet.Row]) -> list[str]:
    times = Counter(str(row["event_id"]) for row in rows)
    sent = {event_id for events in history.sent.values() for event_id in events}
    found = [f"A: {event_id} was acknowledged and is not there" for event_id in history.acknowledged - set(times)]
    found += [f"B: {event_id} is there {number} times" for event_id, number in times.items() if number > 1]
    found += [f"D: nobody sent {event_id}" for event_id in set(times) - sent]
    by_offset = [str(row["event_id"]) for row in sorted(rows, key=lambda row: int(str(row["offset"])))]
    for conversation, events in history.sent.items():
        mine = set(events)
        order = [event_id for event_id in dict.fromkeys(by_offset) if event_id in mine]
        if order != [event_id for event_id in events if event_id in times]:
            found.append(f"E: {conversation} is out of order")
    return found
