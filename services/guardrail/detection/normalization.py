"""Removal of obfuscation from texts before rules, classifier and detectors see them.

Handled are invisible characters, look-alike letters, leetspeak, spelled-out words and stretched
letters. `fold_characters` maps characters one to one, so that spans can be mapped back to the
original text; `variants` does not.
"""

import re
import unicodedata
from dataclasses import dataclass

# Categories of Unicode's data (unicodedata of Python 3.11: Unicode 14) without a visible form:
# controls, format characters, marks, private use and unassigned. Default_Ignorable_Code_Point has
# four letters in addition. U+2800 and U+FFFC have the width of a blank.
INVISIBLE = ("Cc", "Cf", "Mn", "Me", "Co", "Cn")
INVISIBLE_LETTERS = "\u3164\uffa0\u115f\u1160"
BLANKS = "\u2800\ufffc"
# Letters with a stroke or hook, and small capitals, have no decomposition but a name.
LATIN_NAME = re.compile(
    r"LATIN LETTER SMALL CAPITAL ([A-Z])|LATIN SMALL LETTER ([A-Z]) WITH [A-Z -]+"
)
MAX_FOLDS = 65_536
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
    if character in BLANKS:
        return " "
    if (
        unicodedata.category(character) in INVISIBLE or character in INVISIBLE_LETTERS
    ) and character not in "\t\n\r":
        return None
    if (digit := unicodedata.digit(character, None)) is not None:
        return str(digit)
    base = unicodedata.normalize("NFKD", character)
    if base[0].isascii() and all(unicodedata.combining(mark) for mark in base[1:]):
        return base[0]
    named = LATIN_NAME.fullmatch(unicodedata.name(character, ""))
    return (named[1] or named[2]).lower() if named else character


class Folds(dict[int, str | None]):
    """Table for `str.translate` over all of Unicode; a character is folded when first seen."""

    def __missing__(self, code: int) -> str | None:
        folded = _fold(code)
        # Few entries: a text of the limit has at most as many different characters.
        if len(self) < MAX_FOLDS:
            self[code] = folded
        return folded


FOLDS = Folds({ord(odd): plain for odd, plain in zip(*LOOKALIKES, strict=True)})
# Texts of these characters are equal to their folded form.
UNFOLDED = re.compile(r"[\t\n\r -~]*")


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
    if UNFOLDED.fullmatch(text):
        return FoldedText(text, None)
    origins = tuple(index for index, letter in enumerate(text) if FOLDS[ord(letter)] is not None)
    return FoldedText(text.translate(FOLDS), origins)


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
