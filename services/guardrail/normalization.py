"""Takes disguises off a text: invisible characters, look-alike letters, leetspeak, spelled-out
spacing, stretched letters.

`unmask` keeps one character for one, so that spans found in it can be cut out of the original;
`readings` does not.
"""

import re
import unicodedata
from dataclasses import dataclass

# Blocks that hold compatibility forms, other digits, look-alikes and invisible characters.
FOLDED_BLOCKS = (
    (0xA0, 0x3400),
    (0xFB00, 0x10000),
    (0x1D400, 0x1D800),
    (0x1F100, 0x1F200),
    (0xE0000, 0xE0080),
)
# Look-alikes that Unicode does not fold (the frequent ones of Unicode's confusables.txt, TR39), as
# pairs of strings.
LOOKALIKES = (
    "авсеіјкмнорԛѕтухԝһԁɡαβγεικνορτυχωɑıӏ‐‑‒–—−’‘“”АВСЕІЈКМНОРЅТУХΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "abceijkmhopqstyxwhdgabyeikvoptuxwail------''\"\"ABCEIJKMHOPSTYXABEZHIKMNOPTYX",
)
LEET = str.maketrans("013457@$!|", "oieastasil")
# Letters of a word set apart ("b o m b", "b.o.m.b"): at least four, so that "a b c" stays.
SPELLED_OUT = re.compile(
    r"(?<![^\W_])[^\W\d_]([\s.\-_*·])[^\W\d_](?:\1(?:[^\W\d_]|')){2,}(?![^\W_])"
)
# A whole text of single letters, with wider gaps between its words.
LETTER_BY_LETTER = re.compile(r"\s*(?:\S(?:\s+|$)){8,}")
WORD_GAP = re.compile(r"\s{2,}")
# Joints within a word ("bo-mb", "bo**mb"); a hyphen between whole words stays readable without it.
JOINTS = re.compile(r"(?<=[a-z])[*_\-.·~^|\\/]{1,3}(?=[a-z])")
STRETCHED = re.compile(r"([a-z])\1{2,}")
LEET_WORD = re.compile(r"[a-z][013457@$!|]+[a-z]|\b[013457@$]+[a-z]{2}|[a-z][013457@$]+\b")
SPACE = re.compile(r"\s+")
PLAIN = re.compile(r"[a-z ,?'\n]*")


def _fold(code: int) -> str | None:
    """One character's plain form; None for one that nobody sees."""
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
class Unmasked:
    """A text without invisible characters and look-alikes; `origins[i]` is the place of character i
    in the original.
    """

    text: str
    origins: tuple[int, ...] | None

    def origin(self, index: int) -> int:
        """Where character `index` stood in the original."""
        return index if self.origins is None else self.origins[index]


def unmask(text: str) -> Unmasked:
    """Fold character by character; lower and upper case stay."""
    if text.isascii():
        return Unmasked(text, None)
    origins = tuple(
        place for place, letter in enumerate(text) if FOLDS.get(ord(letter), letter) is not None
    )
    return Unmasked(text.translate(FOLDS), origins)


def plain(text: str) -> str:
    """The text as the classifier was trained on it: folded, in lower case, with single spaces."""
    folded = text if text.isascii() else text.translate(FOLDS)
    return SPACE.sub(" ", folded.casefold()).strip()


def readings(text: str) -> tuple[str, ...]:
    """The ways in which a reader may take the text; the first is `plain(text)`, the others only
    where they differ.
    """
    first = plain(text)
    if PLAIN.fullmatch(first) and not STRETCHED.search(first) and not SPELLED_OUT.search(first):
        return (first,)
    spelled = plain(_closed_up(text))
    joined = JOINTS.sub("", spelled)
    letters = joined.translate(LEET) if LEET_WORD.search(joined) else joined
    # "cooook meeeth": which vowel was double at first is anyone's guess.
    shrunk = [
        STRETCHED.sub(lambda run: run[1] * (1 + (run[1] in twice)), letters)  # noqa: B023
        for twice in ("", "oe", "o", "e")
    ]
    return tuple(dict.fromkeys((first, spelled, joined, *shrunk)))


def _closed_up(text: str) -> str:
    """Words whose letters stand apart, put together again."""
    folded = unmask(text).text
    if LETTER_BY_LETTER.fullmatch(folded):
        return " ".join(re.sub(r"\s", "", word) for word in WORD_GAP.split(folded))
    return SPELLED_OUT.sub(lambda found: found[0].replace(found[1], ""), folded)
