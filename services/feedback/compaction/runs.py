"""Choice of the neighbouring segments to merge.

Objects should grow to the target size while each row is rewritten only a few times. A compacted
segment is merged with its successors only when they weigh as much as the compacted segment. A row
is then rewritten as often as its object can double in size, instead of once per pass.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.feedback.lake.readable_segments import ReadableSegment


@dataclass(frozen=True)
class RunLimits:
    """Target size of a compacted object; bytes are those of the rows before encoding."""

    rows: int
    bytes: int

    def is_full(self, item: ReadableSegment) -> bool:
        """Return True if the segment is too large for merging."""
        return item.is_compacted and (2 * item.rows >= self.rows or 2 * item.bytes >= self.bytes)


@dataclass(frozen=True)
class Run:
    """Neighbouring segments in the order of the ledger.

    Without `merge` the run is a single segment, rewritten only if rows must be removed.
    """

    items: Sequence[ReadableSegment]
    merge: bool


def choose_runs(
    items: Iterable[ReadableSegment],
    limits: RunLimits,
    settled_us: int,
    needs_check: Callable[[ReadableSegment], bool],
) -> Iterator[Run]:
    """Yield runs in the order of the ledger.

    Args:
        items: Readable segments.
        limits: Target size of an object.
        settled_us: Segments committed after this time are not merged yet.
        needs_check: Returns True for segments that may contain rows to remove; these are read at
            any size.
    """
    group: list[ReadableSegment] = []
    rows = size = 0
    for item in items:
        is_alone = limits.is_full(item) or not (item.is_compacted or item.commit_us <= settled_us)
        # The bytes of segments are unknown before reading; compaction splits runs that grow too
        # large.
        if is_alone or rows + item.rows > limits.rows or size + item.bytes > limits.bytes:
            yield from _group_runs(group, needs_check)
            group, rows, size = [], 0, 0
        if not is_alone:
            group.append(item)
            rows, size = rows + item.rows, size + item.bytes
        elif needs_check(item):
            yield Run([item], merge=False)
    yield from _group_runs(group, needs_check)


def _group_runs(
    group: Sequence[ReadableSegment], needs_check: Callable[[ReadableSegment], bool]
) -> Iterator[Run]:
    while (
        group
        and group[0].is_compacted
        and (len(group) == 1 or group[0].rows > sum(item.rows for item in group[1:]))
    ):
        if needs_check(group[0]):
            yield Run(group[:1], merge=False)
        group = group[1:]
    if group:
        yield Run(group, merge=True)
