"""Replacement of look-alike characters and removal of invisible characters, character by character.

Spans of a folded text can be mapped back to the original text.
"""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from services.guardrail.detection.confusables import CONFUSABLES

# Categories of Unicode's data (unicodedata of Python 3.11: Unicode 14) without a visible form:
# controls, format characters, marks, private use and unassigned. Default_Ignorable_Code_Point has
# four letters in addition. U+2800 and U+FFFC have the width of a blank.
INVISIBLE = ("Cc", "Cf", "Mn", "Me", "Co", "Cn")
INVISIBLE_LETTERS = "\u3164\uffa0\u115f\u1160"
BLANKS = "\u2800\ufffc"
# Letters with a stroke or hook, small capitals, letters in filled circles or squares and those of
# flags have no decomposition but a name.
LATIN_NAME = re.compile(
    r"(?:LATIN LETTER SMALL CAPITAL|REGIONAL INDICATOR SYMBOL LETTER|"
    r"(?:CROSSED )?NEGATIVE (?:CIRCLED|SQUARED) LATIN CAPITAL LETTER) ([A-Z])"
    r"|LATIN SMALL LETTER ([A-Z]) WITH [A-Z -]+"
)
MAX_FOLDS = 65_536
# Look-alikes without a compatibility form: the frequent entries of Unicode's confusables.txt
# (TR39), and their replacements.
LOOKALIKES = (
    "авсеіјкмнорԛѕтухԝһԁɡαβγεικνορτυχωɑıӏ‐‑‒–—−’‘“”АВСЕІЈКМНОРЅТУХΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "abceijkmhopqstyxwhdgabyeikvoptuxwail------''\"\"ABCEIJKMHOPSTYXABEZHIKMNOPTYX",
)


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


def _fold_confusable(code: int) -> str | None:
    """Return the plain form of a character, of look-alikes in all scripts the Latin letter."""
    folded = FOLDS[code]
    if folded is None or folded.isascii():
        return folded
    base = unicodedata.normalize("NFKD", folded)[0]
    letter = LATIN_LETTERS.get(folded) or LATIN_LETTERS.get(base) or FOLDS[ord(base)]
    return letter if letter and letter.isascii() else folded


class Folds(dict[int, str | None]):
    """Table for `str.translate` over all of Unicode; a character is folded when first seen."""

    def __init__(self, fold: Callable[[int], str | None]) -> None:
        self._fold = fold

    def __missing__(self, code: int) -> str | None:
        folded = self._fold(code)
        # Few entries: a text of the limit has at most as many different characters.
        if len(self) < MAX_FOLDS:
            self[code] = folded
        return folded


LATIN_LETTERS = {
    lookalike: plain for plain, lookalikes in CONFUSABLES.items() for lookalike in lookalikes
}
# The folds with which the classifier was trained, and the folds for all other characters.
FOLDS = Folds(_fold)
FOLDS.update((ord(lookalike), plain) for lookalike, plain in zip(*LOOKALIKES, strict=True))
CONFUSABLE_FOLDS = Folds(_fold_confusable)
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
    origins = tuple(
        index for index, letter in enumerate(text) if CONFUSABLE_FOLDS[ord(letter)] is not None
    )
    return FoldedText(text.translate(CONFUSABLE_FOLDS), origins)
