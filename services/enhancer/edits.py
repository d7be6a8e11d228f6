"""Edits of a text, and how edits made one after another become one set of edits on the original.

All places are Unicode code points. Edits are in order, do not overlap, and applied to the original
they give the text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """Why something was changed."""

    SPELLING = "spelling"
    ABBREVIATION = "abbreviation"
    GRAMMAR = "grammar"
    PUNCTUATION = "punctuation"
    CAPITAL = "capital"
    SPACING = "spacing"


@dataclass(frozen=True)
class Edit:
    """Characters `start` to `end` (exclusive) become `replacement`."""

    start: int
    end: int
    replacement: str
    kind: Kind


@dataclass(frozen=True)
class Segment:
    """Characters `start` to `end` of the original stand in the draft as `text`; `kind` is None
    where nothing changed.
    """

    start: int
    end: int
    text: str
    kind: Kind | None


class Draft:
    """A text on its way from the original through several rounds of edits."""

    def __init__(self, original: str) -> None:
        self.original = original
        self.text = original
        self._segments = [Segment(0, len(original), original, None)]

    def revise(self, edits: Iterable[Edit]) -> None:
        """Edit the present text. Of edits that overlap the one that starts first stands."""
        kept = without_overlaps(edits)
        for edit in reversed(kept):
            self._segments = _replace(self._segments, edit)
        self.text = apply(self.text, kept)

    def edits(self) -> tuple[Edit, ...]:
        """What was changed, as edits on the original."""
        edits: list[Edit] = []
        for one in self._segments:
            if one.kind is None or one.text == self.original[one.start : one.end]:
                continue
            last = edits[-1] if edits else None
            if last and last.start == last.end == one.start == one.end:
                edits[-1] = Edit(last.start, last.end, last.replacement + one.text, last.kind)
            else:
                edits.append(Edit(one.start, one.end, one.text, one.kind))
        return tuple(edits)


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text after the edits."""
    parts, place = [], 0
    for edit in edits:
        parts += [text[place : edit.start], edit.replacement]
        place = edit.end
    return "".join([*parts, text[place:]])


def without_overlaps(edits: Iterable[Edit]) -> list[Edit]:
    """In order of start, without those that overlap an earlier one or insert at the same place."""
    kept: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        last = kept[-1] if kept else None
        if last is None or (edit.start > last.start and edit.start >= last.end):
            kept.append(edit)
    return kept


def _replace(segments: Sequence[Segment], edit: Edit) -> list[Segment]:
    """The segments after one more edit; a segment that was changed before is swallowed whole."""
    before: list[Segment] = []
    after: list[Segment] = []
    swallowed: list[tuple[int, Segment]] = []
    place = 0
    for segment in segments:
        start, place = place, place + len(segment.text)
        if place <= edit.start:
            before.append(segment)
        elif start >= edit.end:
            after.append(segment)
        elif segment.kind is None:
            left, middle, right = _cut(segment, edit.start - start, edit.end - start)
            before += left
            swallowed.append((max(start, edit.start), middle))
            after += right
        else:
            swallowed.append((start, segment))
    if not swallowed:
        origin = before[-1].end if before else 0
        return [*before, Segment(origin, origin, edit.replacement, edit.kind), *after]
    (first_place, first), (last_place, last) = swallowed[0], swallowed[-1]
    head = first.text[: max(0, edit.start - first_place)]
    tail = last.text[max(0, edit.end - last_place) :]
    kind = next((segment.kind for _, segment in swallowed if segment.kind), edit.kind)
    return [*before, Segment(first.start, last.end, head + edit.replacement + tail, kind), *after]


def _cut(segment: Segment, start: int, end: int) -> tuple[list[Segment], Segment, list[Segment]]:
    """An unchanged segment in three parts; left and right are absent if they are empty."""
    start, end = max(0, start), min(len(segment.text), end)

    def part(first: int, past: int) -> Segment:
        return Segment(segment.start + first, segment.start + past, segment.text[first:past], None)

    left = [part(0, start)] if start > 0 else []
    right = [part(end, len(segment.text))] if end < len(segment.text) else []
    return left, part(start, end), right
