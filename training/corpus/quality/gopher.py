"""Rules of Gopher for repetition and quality.

Source: Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
arXiv 2112.11446, appendix A1.1 and table A1. Details that the paper leaves open, such as the
denominators and the order of the rules, are those of datatrove 0.10.1, with which FineWeb was made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from training.corpus.document import Document, Stage, Verdict
from training.corpus.quality import ngrams
from training.corpus.quality.words import Tokenizer, Words


@dataclass(frozen=True)
class RepetitionLimits:
    """Largest shares of repeated text; the defaults are table A1.

    Attributes:
        lines: repeated lines. `line_characters`: characters in them.
        paragraphs: repeated paragraphs. `paragraph_characters`: characters in them.
        top_ngrams: pairs of n and the share of characters in the most frequent n-gram of words.
        ngrams: pairs of n and the share of characters in all repeated n-grams of words.
    """

    lines: float = 0.30
    line_characters: float | None = 0.20
    paragraphs: float | None = 0.30
    paragraph_characters: float | None = 0.20
    top_ngrams: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    ngrams: tuple[tuple[int, float], ...] = (
        (5, 0.15),
        (6, 0.14),
        (7, 0.13),
        (8, 0.12),
        (9, 0.11),
        (10, 0.10),
    )


@dataclass(frozen=True)
class QualityLimits:
    """Limits for words; the defaults are those for English in appendix A1.1.

    Attributes:
        word_length: least and largest mean length of a word.
        alphabetic_words: least share of words with a letter.
        stop_words: at least two of them must occur.
    """

    word_length: tuple[float, float] = (3, 10)
    alphabetic_words: float = 0.8
    stop_words: frozenset[str] = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))


# Appendix A1.1, for each language.
MIN_WORDS, MAX_WORDS = 50, 100_000
# Characters of a text above which `LongTexts` counts words first: a word may need 1,400 bytes.
LONG_TEXT = 500_000
# Counts near cuts differ from those of the whole text, at most by a tenth in texts without spaces.
CERTAIN_WORDS = 1.25 * MAX_WORDS
# With at most MAX_WORDS words among these tokens, the share of words with a letter is .55 or less,
# below the limits of all languages.
CERTAIN_TOKENS = 2 * MAX_WORDS
MAX_SYMBOLS_PER_WORD = 0.1
MAX_BULLET_LINES = 0.9
MAX_ELLIPSIS_LINES = 0.3
MIN_STOP_WORDS = 2

_PARAGRAPH_END = re.compile(r"\n{2,}")
_LINE_END = re.compile(r"\n+")


@dataclass(frozen=True)
class Repetition:
    """Drop texts with many repeated lines, paragraphs or n-grams of words.

    Without a tokenizer, only lines and paragraphs are counted.
    """

    tokenizer: Tokenizer | None
    limits: RepetitionLimits = RepetitionLimits()

    def __call__(self, document: Document) -> Document | Verdict:
        text, limits = document.text, self.limits
        if not text:
            return _verdict("gopher empty")
        if limits.paragraphs is not None or limits.paragraph_characters is not None:
            paragraphs = _PARAGRAPH_END.split(text.strip())
            verdict = _repeated(
                "paragraph", paragraphs, text, limits.paragraphs, limits.paragraph_characters
            )
            if verdict is not None:
                return verdict
        lines = _LINE_END.split(text)
        verdict = _repeated("line", lines, text, limits.lines, limits.line_characters)
        if verdict is None and self.tokenizer is not None:
            verdict = _repeated_ngrams(self.tokenizer.words(text), limits)
        return verdict or document


def repeated_elements(elements: list[str]) -> tuple[int, int]:
    """Return how many elements equal an earlier one, and the characters of these."""
    seen: set[str] = set()
    repeated = characters = 0
    if len(set(elements)) == len(elements):
        return 0, 0
    for element in elements:
        if element in seen:
            repeated += 1
            characters += len(element)
        else:
            seen.add(element)
    return repeated, characters


def _repeated(
    name: str,
    elements: list[str],
    text: str,
    max_share: float | None,
    max_characters: float | None,
) -> Verdict | None:
    repeated, characters = repeated_elements(elements)
    if max_share is not None and repeated / len(elements) > max_share:
        return _verdict(f"gopher duplicate {name}s", repeated / len(elements), most=max_share)
    if max_characters is not None and characters / len(text) > max_characters:
        return _verdict(
            f"gopher duplicate {name} characters", characters / len(text), most=max_characters
        )
    return None


def _repeated_ngrams(words: Words, limits: RepetitionLimits) -> Verdict | None:
    top, repeated = dict(limits.top_ngrams), dict(limits.ngrams)
    for n, hashes in enumerate(ngrams.ngram_hashes(words, max(*top, *repeated)), start=2):
        if n in top:
            share = ngrams.exceeding_top_ngram(words, n, hashes, top[n])
            if share is not None:
                return _verdict(f"gopher top {n}-gram", share, most=top[n])
        if n in repeated:
            share = ngrams.exceeding_duplicates(words, n, hashes, repeated[n])
            if share is not None:
                return _verdict(f"gopher duplicate {n}-grams", share, most=repeated[n])
    return None


@dataclass(frozen=True)
class Quality:
    """Drop texts with too few or too many words, unusual words or lines, or no stop words."""

    tokenizer: Tokenizer
    limits: QualityLimits = QualityLimits()

    def __call__(self, document: Document) -> Document | Verdict:
        words, limits = self.tokenizer.words(document.text), self.limits
        if verdict := _unusual_words(words, limits) or _unusual_lines(document.text):
            return verdict
        alphabetic = int(np.count_nonzero(words.vocabulary.letters(words.numbers))) / len(words)
        if alphabetic < limits.alphabetic_words:
            return _verdict("gopher alphabetic words", alphabetic, least=limits.alphabetic_words)
        found = words.count_distinct(limits.stop_words)
        if found < MIN_STOP_WORDS:
            return _verdict("gopher stop words", found, least=MIN_STOP_WORDS)
        return document


@dataclass(frozen=True)
class LongTexts:
    """Drop texts above LONG_TEXT characters that `Quality` certainly drops for their words.

    Words are counted part by part, and counting ends with the certainty, so that the memory for
    words does not grow with the text.
    """

    tokenizer: Tokenizer

    def __call__(self, document: Document) -> Document | Verdict:
        if len(document.text) <= LONG_TEXT:
            return document
        words = tokens = 0
        for numbers in self.tokenizer.parts(document.text):
            tokens += len(numbers)
            words += len(numbers) - int(self.tokenizer.symbols(numbers).sum())
            if words > CERTAIN_WORDS:
                return _verdict("gopher many words", words, most=MAX_WORDS)
            if tokens > CERTAIN_TOKENS:
                return _verdict("gopher many punctuation marks", tokens - words, most=MAX_WORDS)
        return document


def _unusual_words(words: Words, limits: QualityLimits) -> Verdict | None:
    lengths = words.lengths[~words.vocabulary.symbols(words.numbers)]
    if len(lengths) < MIN_WORDS:
        return _verdict("gopher few words", len(lengths), least=MIN_WORDS)
    if len(lengths) > MAX_WORDS:
        return _verdict("gopher many words", len(lengths), most=MAX_WORDS)
    mean = int(lengths.sum()) / len(lengths)
    shortest, longest = limits.word_length
    if mean < shortest:
        return _verdict("gopher short words", mean, least=shortest)
    if mean > longest:
        return _verdict("gopher long words", mean, most=longest)
    hashes = words.text.count("#") / len(words)
    if hashes > MAX_SYMBOLS_PER_WORD:
        return _verdict("gopher hash signs", hashes, most=MAX_SYMBOLS_PER_WORD)
    ellipses = (words.text.count("...") + words.text.count("…")) / len(words)
    if ellipses > MAX_SYMBOLS_PER_WORD:
        return _verdict("gopher ellipses", ellipses, most=MAX_SYMBOLS_PER_WORD)
    return None


def _unusual_lines(text: str) -> Verdict | None:
    lines = text.splitlines()
    # Lines are looked at only where the characters occur often enough.
    if (text.count("•") + text.count("-")) / len(lines) > MAX_BULLET_LINES:
        bullets = sum(line.lstrip().startswith(("•", "-")) for line in lines) / len(lines)
        if bullets > MAX_BULLET_LINES:
            return _verdict("gopher bullet lines", bullets, most=MAX_BULLET_LINES)
    if (text.count("…") + text.count("...")) / len(lines) > MAX_ELLIPSIS_LINES:
        open_ends = sum(line.rstrip().endswith(("...", "…")) for line in lines) / len(lines)
        if open_ends > MAX_ELLIPSIS_LINES:
            return _verdict("gopher ellipsis lines", open_ends, most=MAX_ELLIPSIS_LINES)
    return None


def _verdict(
    rule: str, value: float = 0, *, least: float | None = None, most: float | None = None
) -> Verdict:
    return Verdict(Stage.QUALITY, rule, bounded(value, least=least, most=most))


def bounded(value: float, *, least: float | None = None, most: float | None = None) -> str:
    """Return a measured value with its limit, for example "0.41 (at most 0.3)"."""
    if least is not None:
        return f"{value:.6g} (at least {least:g})"
    return f"{value:.6g} (at most {most:g})" if most is not None else ""
