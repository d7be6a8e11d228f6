"""Detection of spans in both forms of a text: as written, and as shown."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from secret_detection.finding import has_letter_and_digit
from services.guardrail.detection.markdown import (
    HAS_MARKUP_OR_BREAK,
    SOFT_BREAK,
    shown_characters,
    shown_text,
)
from services.guardrail.detection.spans import (
    LETTER,
    PHONE_REPLACEMENT,
    Span,
    known_secret_spans,
    personal_spans,
    secret_spans,
)

ONE_BREAK = re.compile(rf"(?<!{SOFT_BREAK}){SOFT_BREAK}(?!{SOFT_BREAK})")
# Marks around a text, such as those of a bold word, do not prevent a match.
MARKS_AROUND = "*`~[]()!?.,;:\"' "
# Columns of a table are no parts of one phone number.
WIDE_GAP = re.compile(r"[^\S\n]{3}")
# Characters shown for one of the source: two for a line break that ends a block.
LONGEST_SHOWN = 2


def find_spans(text: str, phone_region: str, before: int | None = None) -> list[Span]:
    """Return the secrets and personal data of a folded text, with positions in this text.

    The text is judged as written and as Markdown shows it. Spans may overlap. All spans that start
    before `before` are returned; further ones may be missing.

    Args:
        text: text without invisible characters (`folding.fold_characters`).
        phone_region: country whose phone numbers are detected without a country prefix.
        before: end of the part that is judged, such as the first word; default: of the text.
    """
    if before is None:
        before = len(text)
    spans = [*secret_spans(text), *personal_spans(text, phone_region, before)]
    if HAS_MARKUP_OR_BREAK.search(text.strip(MARKS_AROUND)):
        spans += _shown_spans(text, phone_region, before)
    return spans


def _shown_spans(text: str, phone_region: str, before: int) -> Iterator[Span]:
    judged = {text}
    for keep_underscores in (False, True) if "_" in text else (False,):
        characters = shown_characters(text, keep_underscores=keep_underscores)
        spaced = ONE_BREAK.sub(" ", characters)
        if spaced in judged:
            continue
        judged.add(spaced)
        in_lines = [
            *secret_spans(spaced),
            *personal_spans(spaced, phone_region, before * LONGEST_SHOWN),
        ]
        # Keys and tokens that are broken over lines.
        broken = (
            list(known_secret_spans(ONE_BREAK.sub("", characters)))
            if spaced != characters and LETTER.search(characters)
            else []
        )
        if not in_lines and not broken:
            continue
        # Positions take three quarters of the time, and few windows contain spans.
        shown = shown_text(text, keep_underscores=keep_underscores)
        for span in in_lines:
            found = _mapped(span, shown.starts, shown.ends)
            if span.replacement != PHONE_REPLACEMENT or not WIDE_GAP.search(
                text, found.start, found.end
            ):
                yield found
        breaks = {found.start() for found in ONE_BREAK.finditer(shown.text)}
        kept = [index for index in range(len(shown.text)) if index not in breaks]
        starts = [shown.starts[index] for index in kept]
        ends = [shown.ends[index] for index in kept]
        for span in broken:
            found = _mapped(span, starts, ends)
            if has_letter_and_digit(text[found.start : found.end]):
                yield found


def _mapped(span: Span, starts: Sequence[int], ends: Sequence[int]) -> Span:
    return replace(span, start=starts[span.start], end=ends[span.end - 1])
