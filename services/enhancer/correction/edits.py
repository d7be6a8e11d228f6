"""Edits of a text, and their composition over several rounds into edits of the original.

All positions count Unicode code points. Edits are in order and do not overlap.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from services.contracts.chat import TextEdit


class EditKind(StrEnum):
    """Reason of an edit, as in the proto."""

    SPELLING = "spelling"
    ABBREVIATION = "abbreviation"
    GRAMMAR = "grammar"
    PUNCTUATION = "punctuation"
    CAPITAL = "capital"
    SPACING = "spacing"


@dataclass(frozen=True)
class Edit(TextEdit):
    """Replacement of the characters `start` to `end` (exclusive) for a known reason."""

    kind: EditKind

    def shift(self, characters: int) -> "Edit":
        """Return the same edit further to the right."""
        return Edit(self.start + characters, self.end + characters, self.replacement, self.kind)


@dataclass(frozen=True)
class Segment:
    """Part of a draft: `text` replaces the characters `start` to `end` of the original.

    `kind` is None for an unchanged part.
    """

    start: int
    end: int
    text: str
    kind: EditKind | None


class Draft:
    """A text and its edits, built in several rounds from the original."""

    def __init__(self, original: str) -> None:
        self.original = original
        self.text = original
        self._segments = [Segment(0, len(original), original, None)]

    def revise(self, edits: Iterable[Edit]) -> None:
        """Apply edits to the present text; of overlapping edits the first is applied."""
        kept = without_overlaps(edits)
        for edit in reversed(kept):
            self._segments = _replace(self._segments, edit)
        self.text = apply(self.text, kept)

    def edits(self) -> tuple[Edit, ...]:
        """Return all changes as edits of the original."""
        edits: list[Edit] = []
        for segment in self._segments:
            start, end, text = segment.start, segment.end, segment.text
            if segment.kind is None or text == self.original[start:end]:
                continue
            last = edits[-1] if edits else None
            # Two insertions at one position become one edit.
            if last and last.start == last.end == start == end:
                edits[-1] = Edit(last.start, last.end, last.replacement + text, last.kind)
            else:
                edits.append(Edit(start, end, text, segment.kind))
        return tuple(edits)


def apply(text: str, edits: Sequence[Edit]) -> str:
    """Return the text after the edits."""
    parts, position = [], 0
    for edit in edits:
        parts += [text[position : edit.start], edit.replacement]
        position = edit.end
    return "".join([*parts, text[position:]])


def without_overlaps(edits: Iterable[Edit]) -> list[Edit]:
    """Sort edits and omit those that overlap an earlier edit or insert at its position."""
    kept: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        last = kept[-1] if kept else None
        if last is None or (edit.start > last.start and edit.start >= last.end):
            kept.append(edit)
    return kept


def _replace(segments: Sequence[Segment], edit: Edit) -> list[Segment]:
    """Return the segments after one more edit.

    Unchanged segments are cut at the edit. A changed segment cannot be cut, since its parts have no
    position in the original, and is merged with the edit.
    """
    before: list[Segment] = []
    after: list[Segment] = []
    # Affected segments with their positions in the draft.
    merged: list[tuple[int, Segment]] = []
    position = 0
    for segment in segments:
        start, position = position, position + len(segment.text)
        if position <= edit.start:
            before.append(segment)
        elif start >= edit.end:
            after.append(segment)
        elif segment.kind is None:
            left, middle, right = _cut(segment, edit.start - start, edit.end - start)
            before += left
            merged.append((max(start, edit.start), middle))
            after += right
        else:
            merged.append((start, segment))
    if not merged:
        # An insertion between two segments.
        origin = before[-1].end if before else 0
        return [*before, Segment(origin, origin, edit.replacement, edit.kind), *after]
    (first_start, first), (last_start, last) = merged[0], merged[-1]
    # Text of changed segments outside the edit is preserved.
    head = first.text[: max(0, edit.start - first_start)]
    tail = last.text[max(0, edit.end - last_start) :]
    kind = next((segment.kind for _, segment in merged if segment.kind), edit.kind)
    return [*before, Segment(first.start, last.end, head + edit.replacement + tail, kind), *after]


def _cut(segment: Segment, start: int, end: int) -> tuple[list[Segment], Segment, list[Segment]]:
    """Cut an unchanged segment into three parts; an empty left or right part is omitted."""
    start, end = max(0, start), min(len(segment.text), end)

    def part(first: int, past: int) -> Segment:
        return Segment(segment.start + first, segment.start + past, segment.text[first:past], None)

    left = [part(0, start)] if start > 0 else []
    right = [part(end, len(segment.text))] if end < len(segment.text) else []
    return left, part(start, end), right
