"""A draw: removal of items without consent, then new items by rule.

The review service knows which items were drawn before. A draw sends the candidates of each tenant
and rule in their order until the service has stored as many new items as the settings ask for, so
no list of drawn items is kept here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from thumbwheel.review.v1 import review_pb2

from training.corpus.pii.kinds import Kind
from training.data.feedback.catalogue import Objects
from training.data.feedback.events import Turn, Withheld
from training.data.feedback.judgements import last_revisions
from training.data.feedback.snapshot import Log, read_events
from training.reviews.items import is_too_long, item_id_of, item_of
from training.reviews.rules import TOO_LONG, Candidate, DrawConfig, Rule, select

# Limits of AddItems; the rest of 4 MiB is for the message around the items.
MAX_ITEMS, MAX_BYTES = 100, 4 * 1024 * 1024 - 64 * 1024


class ItemQueue(Protocol):
    """Items of the review service."""

    def add(self, items: Sequence[review_pb2.DrawnItem]) -> int:
        """Add items; return the number of those that were stored now."""

    def remove(self, principals: Sequence[str] = (), item_ids: Sequence[str] = ()) -> int:
        """Remove the items of users, and items by their ids; return their number."""


@dataclass
class DrawResult:
    """Counts of a draw; no texts and no names."""

    removed: int = 0
    candidates: Counter[Rule] = field(default_factory=Counter)
    added: Counter[Rule] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    replaced: Counter[Kind] = field(default_factory=Counter)

    def text(self) -> str:
        """Describe the result for a person, in a line for each rule and reason."""
        lines = [f"{'rule':<14}{'candidates':>12}{'new items':>12}"]
        lines += [f"{rule:<14}{self.candidates[rule]:>12}{self.added[rule]:>12}" for rule in Rule]
        lines.append(f"removed items: {self.removed}")
        for title, counts in (
            ("left out", self.left_out),
            ("personal data replaced", self.replaced),
        ):
            lines += [f"{title}: {name} {count}" for name, count in sorted(counts.items())]
        return "\n".join(lines)


def draw(
    log: Log, objects: Objects, queue: ItemQueue, config: DrawConfig, now_us: int
) -> DrawResult:
    """Remove items without consent, and add new ones.

    Args:
        log: feedback service.
        objects: store of the feedback table.
        queue: review service.
        config: settings.
        now_us: time of the draw, microseconds since 1970.

    Raises:
        CatalogueError, RowError, SealError: as `read_events`; nothing was changed.
        RemoteError: a service is unavailable; a repeated draw continues.
    """
    erased = {erasure.principal for erasure in log.erasures(0)}
    events = read_events(log, objects)
    turns = last_revisions(events.turns, [])
    result = DrawResult()
    result.removed = queue.remove(
        sorted(withdrawn(turns.values(), erased)), deleted_items(turns.values())
    )
    selection = select(events.feedback, turns, config, now_us)
    result.left_out.update(selection.left_out)
    for (_, rule), candidates in selection.candidates.items():
        result.candidates[rule] += len(candidates)
        result.added[rule] += _add(candidates, config.amounts.get(rule, 0), queue, config, result)
    return result


def withdrawn(turns: Iterable[Turn], erased: set[str]) -> set[str]:
    """Return users without consent, and erased users without later data.

    The review service removes items from before an erasure itself, and by their time. An erased
    user with later data is left to it, because later items have reviews that must stay.
    """
    forbidden: set[str] = set()
    readable: set[str] = set()
    for turn in turns:
        if turn.withheld is Withheld.NO_CONSENT:
            forbidden.add(turn.principal)
        elif not turn.withheld:
            readable.add(turn.principal)
    return forbidden | (erased - readable)


def deleted_items(turns: Iterable[Turn]) -> list[str]:
    """Return the ids of all items that may have been drawn from deleted conversations."""
    return [
        item_id_of(turn.tenant, turn.message_id, rule)
        for turn in turns
        if turn.erased
        for rule in Rule
    ]


def _add(
    candidates: Sequence[Candidate],
    amount: int,
    queue: ItemQueue,
    config: DrawConfig,
    result: DrawResult,
) -> int:
    """Send candidates until `amount` items are new; return the number of new items."""
    batch: list[review_pb2.DrawnItem] = []
    added = size = 0
    for candidate in candidates:
        if added >= amount:
            break
        item = item_of(candidate, config.language, result.replaced)
        if is_too_long(item):
            result.left_out[TOO_LONG] += 1
            continue
        if batch and size + item.ByteSize() > MAX_BYTES:
            added += queue.add(batch)
            batch, size = [], 0
        batch.append(item)
        size += item.ByteSize()
        if len(batch) >= min(amount - added, MAX_ITEMS):
            added += queue.add(batch)
            batch, size = [], 0
    return added + queue.add(batch) if batch else added
