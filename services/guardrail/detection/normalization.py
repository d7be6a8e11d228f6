"""Removal of obfuscation from texts before rules, classifier and detectors see them.

Handled are invisible characters, look-alike letters, leetspeak, spelled-out words and stretched
letters. `fold_characters` maps characters one to one, so that spans can be mapped back to the
original text; `variants` does not.
"""

import re
import unicodedata
from dataclasses import dataclass

# Unicode blocks with compatibility forms, other digits, look-alikes and invisible characters.
FOLDED_BLOCKS = (
    (0xA0, 0x3400),
    (0xFB00, 0x10000),
    (0x1D400, 0x1D800),
    (0x1F100, 0x1F200),
    (0xE0000, 0xE0080),
)
# Look-alikes without a compatibility form: the frequent entries of Unicode's confusables.txt
# (TR39), and their replacements.
LOOKALIKES = (
    "авсеіјкмнорԛѕтухԝһԁɡαβγεικνορτυχωɑıӏ‐‑‒–—−’‘“”АВСЕІЈКМНОРЅТУХΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "abceijkmhopqstyxwhdgabyeikvoptuxwail------''\"\"ABCEIJKMHOPSTYXABEZHIKMNOPTYX",
)
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


def _fold(code: int) -> str | None:
    """Return the plain form of a character, or None for an invisible character."""
    character = chr(code)
    if (
        unicodedata.category(character) in ("Cf", "Mn", "Me")
        or character in "\u3164\uffa0\u115f\u1160"
    ):
        return None
    if (digit := unicodedata.digit(character, None)) is not None:
        return str(digit)
    base = unicodedata.normalize("NFKD", character)
    return (
        base[0]
        if base[0].isascii() and all(unicodedata.combining(mark) for mark in base[1:])
        else character
    )


FOLDS: dict[int, str | None] = {
    **{
        code: _fold(code)
        for first, end in FOLDED_BLOCKS
        for code in range(first, end)
        if _fold(code) != chr(code)
    },
    **{ord(odd): plain for odd, plain in zip(*LOOKALIKES, strict=True)},
}


@dataclass(frozen=True)
class FoldedText:
    """A text without invisible characters and look-alikes.

    `origins[i]` is the position of character i in the original text; None if all are equal.
    """

    text: str
    origins: tuple[int, ...] | None

    def origin(self, index: int) -> int:
        """Return the position of character `index` in the original text."""
        return index if self.origins is None else self.origins[index]


def fold_characters(text: str) -> FoldedText:
    """Fold a text character by character and preserve case."""
    if text.isascii():
        return FoldedText(text, None)
    origins = tuple(
        index for index, letter in enumerate(text) if FOLDS.get(ord(letter), letter) is not None
    )
    return FoldedText(text.translate(FOLDS), origins)


def plain(text: str) -> str:
    """Return the form on which the classifier is trained: folded, lower case, single spaces."""
    folded = text if text.isascii() else text.translate(FOLDS)
    return SPACE.sub(" ", folded.casefold()).strip()


def variants(text: str) -> tuple[str, ...]:
    """Return the possible readings of a text, without duplicates.

    The first is `plain(text)`. Further variants have obfuscation removed step by step.
    """
    first = plain(text)
    if PLAIN.fullmatch(first) and not STRETCHED.search(first) and not SPELLED_OUT.search(first):
        return (first,)
    folded = fold_characters(text).text
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
