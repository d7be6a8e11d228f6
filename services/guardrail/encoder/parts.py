"""Parts of a text around the windows on which the linear classifier is unsure."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.guardrail.detection.classifier import WINDOW_CHARACTERS

# Characters before and after the start of a window: with its context, about as many tokens as a
# window of the encoder.
BEFORE, AFTER = 150, 350
# Parts of one text; the windows with the highest margins come first.
MAX_PARTS = 8


@dataclass(frozen=True)
class Part:
    """A part of a text with the highest margin of its windows over the linear limit."""

    text: str
    margin: float


def parts(text: str, windows: Sequence[tuple[float, int]]) -> list[Part]:
    """Return the parts with the windows of the highest margins.

    Args:
        text: text in the form of `normalization.plain`.
        windows: margin and first character of each unsure window.
    """
    if len(text) <= BEFORE + AFTER:
        return [Part(text, max(margin for margin, _ in windows))] if windows else []
    found: list[Part] = []
    spans: list[tuple[int, int]] = []
    for margin, start in sorted(windows, key=lambda window: (-window[0], window[1])):
        end = min(len(text), start + WINDOW_CHARACTERS)
        if any(first <= start and end <= last for first, last in spans):
            continue
        first = _word_start(text, max(0, min(start - BEFORE, len(text) - BEFORE - AFTER)))
        last = min(len(text), first + BEFORE + AFTER)
        spans.append((first, last))
        found.append(Part(text[first:last], margin))
        if len(found) == MAX_PARTS:
            break
    return found


def _word_start(text: str, position: int) -> int:
    """Return the position of the next word if it is near, else the position."""
    if position == 0:
        return 0
    space = text.find(" ", position, position + 30)
    return space + 1 if space >= 0 else position
