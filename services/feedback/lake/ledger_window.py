"""Sliding window over a stream's segments and their dead letters."""

from bisect import bisect_left

from services.feedback.lake.ledger import Ledger, Segment

PartitionKey = tuple[str, int]
"""Topic id and partition of a log."""


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
