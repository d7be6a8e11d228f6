"""Removal of obfuscation from texts before rules, classifier and detectors see them.

Handled are invisible characters and look-alike letters (`folding`), Markdown and character
references (`markdown`), escapes, symbols, leetspeak, spelled-out words, stretched letters, and
words that HTML or a line break divides.
"""

import re
import unicodedata

from services.guardrail.detection.folding import FOLDS, UNFOLDED, Folds, fold_characters
from services.guardrail.detection.markdown import without_markup

LEET = str.maketrans("013457@$!|", "oieastasil")
# Words with separated letters ("b o m b", "b.o.m.b"), at least four, so that "a b c" is unchanged.
SPELLED_OUT = re.compile(
    r"(?<![^\W_])[^\W\d_]([\s.\-_*·])[^\W\d_](?:\1(?:[^\W\d_]|')){2,}(?![^\W_])"
)
# The same with spaces spelled out too, or none after them: "b.o.m.b. .a.t", "b-o-m-b- a-t-".
SPELLED_WITH_SPACES = re.compile(
    r"(?<![^\W_])[^\W_]([.\-|/·,:;+=~])(?:[^\W_]\1|['?!]\1|\s\1?){7,}[^\W_]?"
)
# A text of single letters only, with wider gaps between words.
LETTER_BY_LETTER = re.compile(r"\s*(?:\S(?:\s+|$)){8,}")
WORD_GAP = re.compile(r"\s{2,}")
# Separators within a word ("bo-mb", "bo**mb"). Removed hyphens between whole words do no harm.
SEPARATORS = re.compile(r"(?<=[a-z])[*_\-.·~^|\\/]{1,3}(?=[a-z])")
STRETCHED = re.compile(r"([a-z])\1{2,}")
LEET_WORD = re.compile(r"[a-z][013457@$!|]+[a-z]|\b[013457@$]{1,24}[a-z]{2}|[a-z][013457@$]+\b")
SPACE = re.compile(r"\s+")
# Percent escapes, and escapes of JSON and programming languages.
ESCAPES = re.compile(r"(?:%[0-9A-Fa-f]{2})+|\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2}))")
# HTML tags, comments and single line breaks within a word.
WITHIN_WORD = re.compile(
    r"(?<=[^\W\d_])(?:(?:<!--[^<>]{0,64}-->|</?[A-Za-z][^<>\n]{0,64}>){1,8}|\r?\n)(?=[^\W\d_])"
)
PLAIN = re.compile(r"[a-z ,?'\n]*")


def plain(text: str) -> str:
    """Return the form on which the classifier is trained: folded, lower case, single spaces."""
    folded = text if UNFOLDED.fullmatch(text) else text.translate(FOLDS)
    return SPACE.sub(" ", folded.casefold()).strip()


def _symbol(code: int) -> str:
    """Return a mark of Markdown for an emoji, a skin tone or another symbol, which is removed."""
    character = chr(code)
    return "*" if unicodedata.category(character) in ("So", "Sk") and code > 0x7F else character


SYMBOLS = Folds(_symbol)


def variants(text: str) -> tuple[str, ...]:
    """Return the possible readings of a text.

    The first is `plain(text)`. Further variants have obfuscation removed step by step; the last one
    has all removed but the divisions of words, since most line breaks are those of ordinary text.
    """
    first = plain(text)
    if PLAIN.fullmatch(first) and not STRETCHED.search(first) and not SPELLED_OUT.search(first):
        undivided = plain(WITHIN_WORD.sub("", text))
        return (first,) if undivided == first else (first, undivided, first)
    decoded = ESCAPES.sub(_decoded, text)
    folded = without_markup(fold_characters(decoded).text.translate(SYMBOLS))
    # Join words with separated letters.
    if LETTER_BY_LETTER.fullmatch(folded):
        whole_words = " ".join(re.sub(r"\s", "", word) for word in WORD_GAP.split(folded))
    else:
        whole_words = SPELLED_WITH_SPACES.sub(lambda run: run[0].replace(run[1], ""), folded)
        whole_words = SPELLED_OUT.sub(lambda found: found[0].replace(found[1], ""), whole_words)
    spelled = plain(whole_words)
    joined = SEPARATORS.sub("", spelled)
    undivided = plain(SEPARATORS.sub("", WITHIN_WORD.sub("", whole_words)))
    letters = joined.translate(LEET) if LEET_WORD.search(joined) else joined
    # "cooook meeeth": the vowels that were doubled originally are unknown, so try several sets.
    shrunk = [
        STRETCHED.sub(lambda run: run[1] * (1 + (run[1] in twice)), letters)  # noqa: B023
        for twice in ("", "oe", "o", "e")
    ]
    return tuple(dict.fromkeys((first, spelled, joined, undivided, *shrunk)))


def _decoded(escape: re.Match[str]) -> str:
    """Return the text of an escape, or the escape if it is no character."""
    if digits := escape[1] or escape[2]:
        character = chr(int(digits, 16))
        return escape[0] if "\ud800" <= character <= "\udfff" else character
    return bytes.fromhex(escape[0].replace("%", "")).decode(errors="replace")
