"""Removal of obfuscation from texts before rules, classifier and detectors see them.

Handled are invisible characters and look-alike letters (`folding`), Markdown and character
references (`markdown`), leetspeak, spelled-out words and stretched letters.
"""

import re

from services.guardrail.detection.folding import FOLDS, UNFOLDED, fold_characters
from services.guardrail.detection.markdown import without_markup

LEET = str.maketrans("013457@$!|", "oieastasil")
# Words with separated letters ("b o m b", "b.o.m.b"), at least four, so that "a b c" is unchanged.
SPELLED_OUT = re.compile(
    r"(?<![^\W_])[^\W\d_]([\s.\-_*·])[^\W\d_](?:\1(?:[^\W\d_]|')){2,}(?![^\W_])"
)
# A text of single letters only, with wider gaps between words.
LETTER_BY_LETTER = re.compile(r"\s*(?:\S(?:\s+|$)){8,}")
WORD_GAP = re.compile(r"\s{2,}")
# Separators within a word ("bo-mb", "bo**mb"). Removed hyphens between whole words do no harm.
SEPARATORS = re.compile(r"(?<=[a-z])[*_\-.·~^|\\/]{1,3}(?=[a-z])")
STRETCHED = re.compile(r"([a-z])\1{2,}")
LEET_WORD = re.compile(r"[a-z][013457@$!|]+[a-z]|\b[013457@$]{1,24}[a-z]{2}|[a-z][013457@$]+\b")
SPACE = re.compile(r"\s+")
PLAIN = re.compile(r"[a-z ,?'\n]*")


def plain(text: str) -> str:
    """Return the form on which the classifier is trained: folded, lower case, single spaces."""
    folded = text if UNFOLDED.fullmatch(text) else text.translate(FOLDS)
    return SPACE.sub(" ", folded.casefold()).strip()


def variants(text: str) -> tuple[str, ...]:
    """Return the possible readings of a text, without duplicates.

    The first is `plain(text)`. Further variants have obfuscation removed step by step.
    """
    first = plain(text)
    if PLAIN.fullmatch(first) and not STRETCHED.search(first) and not SPELLED_OUT.search(first):
        return (first,)
    folded = without_markup(fold_characters(text).text)
    # Join words with separated letters.
    if LETTER_BY_LETTER.fullmatch(folded):
        whole_words = " ".join(re.sub(r"\s", "", word) for word in WORD_GAP.split(folded))
    else:
        whole_words = SPELLED_OUT.sub(lambda found: found[0].replace(found[1], ""), folded)
    spelled = plain(whole_words)
    joined = SEPARATORS.sub("", spelled)
    letters = joined.translate(LEET) if LEET_WORD.search(joined) else joined
    # "cooook meeeth": the vowels that were doubled originally are unknown, so try several sets.
    shrunk = [
        STRETCHED.sub(lambda run: run[1] * (1 + (run[1] in twice)), letters)  # noqa: B023
        for twice in ("", "oe", "o", "e")
    ]
    return tuple(dict.fromkeys((first, spelled, joined, *shrunk)))
