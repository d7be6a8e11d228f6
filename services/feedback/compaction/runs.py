"""Which neighbours of a stream are merged: so that objects grow to the wanted size, and each row is
written only a few times.

A cover joins those behind it only when they weigh as much as it does. A row is then rewritten as
often as its object's size can double, and not once a pass.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from services.feedback.lake.compacted_segments import ReadableSegment


@dataclass(frozen=True)
class RunLimits:
    """The most that one compacted object should hold; bytes are those of the rows before encoding."""

    rows: int
    bytes: int

    def is_full(self, item: ReadableSegment) -> bool:
        """Too large to be merged with anything."""
        return item.is_compacted and (2 * item.rows >= self.rows or 2 * item.bytes >= self.bytes)


@dataclass(frozen=True)
class Run:
    """Neighbours in the order of the ledger. Without `merge` it is one that is only rewritten if it
    holds what must go.
    """

    items: Sequence[ReadableSegment]
    merge: bool


def choose_runs(
    items: Iterable[ReadableSegment],
    limits: RunLimits,
    settled_us: int,
    needs_check: Callable[[ReadableSegment], bool],
) -> Iterator[Run]:
    """Runs in the order of the ledger.

    Args:
        settled_us: segments that were committed after this time are not merged yet.
        suspect: it may hold what must go, so it must be looked into whatever its size.
    """
    group: list[ReadableSegment] = []
    rows = size = 0
    for item in items:
        is_alone = limits.is_full(item) or not (item.is_compacted or item.commit_us <= settled_us)
        # The bytes of segments are not known before they are read: compaction cuts a run that grows
        # too large.
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
