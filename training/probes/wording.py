"""Plain form of a text in which the rules of the probes search for words and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable

from training.verification.number_words import in_digits

# Longer answers are read up to here; the rules need time in proportion to the length.
MAX_CHARACTERS = 8_000
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "×": "x", "\u00a0": " "})
_MARKUP = re.compile(r"[*_`#>]+|\\(?:times|cdot|text|boxed)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ZERO_DECIMALS = re.compile(r"(?<=\d)\.0+(?!\d)")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+|\n+")
_NOT_A_WORD = re.compile(r"[^\w']+")


def plain(text: str) -> str:
    """Return the text in lower case, without markup, and with numbers in digits."""
    text = _MARKUP.sub(" ", text[:MAX_CHARACTERS].translate(_QUOTES)).casefold()
    text = _ZERO_DECIMALS.sub("", _THOUSANDS.sub("", in_digits(text)))
    return text.replace("%", " percent ")


def sentences(plain_text: str) -> list[str]:
    """Split a plain text at the ends of its sentences and lines."""
    return [sentence for sentence in _SENTENCE_END.split(plain_text) if sentence.strip()]


def words(plain_text: str) -> str:
    """Return the words, separated and surrounded by single spaces."""
    return f" {_NOT_A_WORD.sub(' ', plain_text).strip()} "


def contains_any(text: str, terms: Iterable[str]) -> bool:
    """Return True if the text contains at least one of the terms as whole words."""
    found = words(plain(text))
    return any(words(plain(term)) in found for term in terms)
