"""Hashed features of texts, with the normalisation and the buckets of services/guardrail.

Training must not import services, so this is a copy. A test compares both on arbitrary texts.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

BUCKET_BITS = 17
SHORTEST_NGRAM, LONGEST_NGRAM = 3, 5
# Two blocks are a window.
BLOCK_CHARACTERS = 100
NO_BUCKETS = np.zeros(0, dtype=np.uint32)
WORD = re.compile(r"\w+|[?!]")
MULTIPLIER = np.uint32(0x9E3779B1)
PAIR_MULTIPLIER = np.uint32(0x85EBCA6B)

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
LOOKALIKES = (
    "авсеіјкмнорԛѕтухԝһԁɡαβγεικνορτυχωɑıӏ‐‑‒–—−’‘“”АВСЕІЈКМНОРЅТУХΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "abceijkmhopqstyxwhdgabyeikvoptuxwail------''\"\"ABCEIJKMHOPSTYXABEZHIKMNOPTYX",
)
SPACE = re.compile(r"\s+")
LEET = str.maketrans("013457@$!|", "oieastasil")
SEPARATORS = re.compile(r"(?<=[a-z])[*_\-.·~^|\\/]{1,3}(?=[a-z])")


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


def plain(text: str) -> str:
    """Return the text folded, in lower case and with single spaces."""
    folded = text if UNFOLDED.fullmatch(text) else text.translate(FOLDS)
    return SPACE.sub(" ", folded.casefold()).strip()


def without_separators(plain_text: str) -> str:
    """Return a second reading as of the service, in which separators and leetspeak are resolved."""
    return SEPARATORS.sub("", plain_text).translate(LEET)


def window_sums(text: str, weights_BH: Any) -> tuple[Any, Any]:
    """Return the sums of the weights [W, H] and the numbers of features [W] of all windows.

    A feature belongs to the block in which it begins and counts once in a window.
    """
    buckets, positions = features(text)
    blocks = positions // BLOCK_CHARACTERS
    last = int(blocks.max(initial=0))
    # Distinct pairs in the order of buckets, so that the neighbour has the block before.
    pairs = np.unique((buckets.astype(np.int64) << 32) | blocks)
    bucket, block = pairs >> 32, pairs & 0xFFFFFFFF
    # The second block of a window adds the features that the first does not have.
    is_new = np.ones(len(pairs), dtype=bool)
    is_new[1:] = pairs[1:] - pairs[:-1] != 1
    values_NH = np.column_stack([weights_BH[bucket], np.ones(len(pairs))])
    first, second = (
        np.column_stack([np.bincount(block, column, last + 1) for column in values.T])
        for values in (values_NH, values_NH * is_new[:, None])
    )
    sums = first[:-1] + second[1:] if last else first
    return sums[:, :-1], np.maximum(1, sums[:, -1])


def features(text: str) -> tuple[Any, Any]:
    """Return the buckets [N] and positions [N] of a text in the form of `plain`."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32)
    matches = list(WORD.finditer(text))
    words = np.array([crc32(each[0].encode()) for each in matches], dtype=np.uint32)
    starts = np.array([each.start() for each in matches], dtype=np.int64)
    hashes = [words, words[:-1] * PAIR_MULTIPLIER + words[1:]]
    positions = [starts, starts[:-1]]
    # Hashes of all n-grams of one length follow from those of the next shorter length.
    ngrams = codes * MULTIPLIER
    for length in range(2, LONGEST_NGRAM + 1):
        ngrams = (ngrams[:-1] ^ (ngrams[:-1] >> np.uint32(15))) * MULTIPLIER + codes[length - 1 :]
        if length >= SHORTEST_NGRAM:
            hashes.append(ngrams + np.uint32(length))
            positions.append(np.arange(len(ngrams)))
    mixed = np.concatenate(hashes) * MULTIPLIER
    mixed ^= mixed >> np.uint32(16)
    buckets = (mixed * PAIR_MULTIPLIER) >> np.uint32(32 - BUCKET_BITS)
    return buckets, np.concatenate(positions)


def rows(texts: Sequence[str]) -> Any:
    """Return a sparse matrix [T, 2**BUCKET_BITS] with rows of length 1."""
    buckets = [np.unique(features(plain(text))[0]) for text in texts]
    sizes = np.array([len(one) for one in buckets], dtype=np.int64)
    values = np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return csr_matrix(
        (values, np.concatenate([*buckets, NO_BUCKETS]).astype(np.int32), ends),
        shape=(len(texts), 1 << BUCKET_BITS),
    )
