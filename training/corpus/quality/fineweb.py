"""Rules that FineWeb adds to those of Gopher and C4.

Source: Penedo et al., "The FineWeb Datasets", arXiv 2406.17557, section 3.5: the three thresholds
for lines. The share of line breaks is in the reference implementation, datatrove 0.10.1, only.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.corpus.document import Document, Stage, Verdict
from training.corpus.quality.gopher import bounded, repeated_elements
from training.corpus.quality.punctuation import TERMINAL
from training.corpus.quality.words import Tokenizer

SHORT_LINE = 30  # characters


@dataclass(frozen=True)
class LineLimits:
    """Limits for lines; the defaults are those for English.

    Attributes:
        punctuated: least share of lines that end with punctuation.
        short: largest share of lines of at most `SHORT_LINE` characters.
        duplicate_characters: largest share of characters in repeated lines.
        line_breaks: largest number of line breaks per word.
    """

    punctuated: float = 0.12
    short: float | None = 0.67
    duplicate_characters: float = 0.01
    line_breaks: float = 0.3


_TERMINAL = tuple(sorted(TERMINAL))


@dataclass(frozen=True)
class Lines:
    """Drop texts that are lists: lines without punctuation, short or repeated lines.

    Without a tokenizer, line breaks per word are not counted.
    """

    tokenizer: Tokenizer | None
    limits: LineLimits = LineLimits()

    def __call__(self, document: Document) -> Document | Verdict:
        text, limits = document.text, self.limits
        lines = [line for line in text.split("\n") if line and not line.isspace()]
        if not lines:
            return Verdict(Stage.QUALITY, "fineweb empty")
        ended = sum(line.endswith(_TERMINAL) for line in lines) / len(lines)
        if ended < limits.punctuated:
            value = bounded(ended, least=limits.punctuated)
            return Verdict(Stage.QUALITY, "fineweb punctuated lines", value)
        short = sum(len(line) <= SHORT_LINE for line in lines) / len(lines)
        if limits.short is not None and short > limits.short:
            value = bounded(short, most=limits.short)
            return Verdict(Stage.QUALITY, "fineweb short lines", value)
        breaks = text.count("\n")
        repeated = repeated_elements(lines)[1] / (len(text) - breaks)
        if repeated > limits.duplicate_characters:
            value = bounded(repeated, most=limits.duplicate_characters)
            return Verdict(Stage.QUALITY, "fineweb duplicate line characters", value)
        if self.tokenizer is not None and breaks:
            words = len(self.tokenizer.words(text))
            if breaks / words > limits.line_breaks:
                value = bounded(breaks / words, most=limits.line_breaks)
                return Verdict(Stage.QUALITY, "fineweb line breaks", value)
        return document
