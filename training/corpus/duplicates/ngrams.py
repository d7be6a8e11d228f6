"""64-bit hashes of words and n-grams, computed with numpy over the code points of a text.

Shape legend: C code points, W words, G n-grams.

Normalisation, in the manner of datatrove's `simplify_text` (utils/text.py, `TextNormConfig`): lower
case, diacritics removed, each run of digits equal to every other one, punctuation and symbols
separate words. A character of a script without spaces (Han, kana, Thai, Lao, Khmer, Burmese) is a
word of its own, so that n-grams of such texts are n-grams of characters.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import numpy as np
import numpy.typing as npt

from training.corpus.block_sample import cut

Hashes = npt.NDArray[np.uint64]

# The tables end after the ideographs of Unicode 16; code points beyond are separators.
CODE_POINTS = 0x33480
# Ranges of scripts without spaces between words.
UNSPACED = (
    (0x0E01, 0x0E5A),  # Thai
    (0x0E81, 0x0EE0),  # Lao
    (0x1000, 0x10A0),  # Burmese
    (0x1780, 0x1800),  # Khmer
    (0x3041, 0x3100),  # kana
    (0x31F0, 0x3200),  # kana, phonetic extensions
    (0x3400, 0x4DC0),  # Han, extension A
    (0x4E00, 0xA000),  # Han
    (0xF900, 0xFB00),  # Han, compatibility
    (0x20000, CODE_POINTS),  # Han, extensions B to I
)
# Combining marks of Latin, Greek and Cyrillic letters. Marks of other scripts are vowels.
MARKS = (0x0300, 0x0370)
SEPARATOR, LETTER, DIGIT, IDEOGRAPH, MARK = range(5)
# Constants of SplitMix64 (Steele, Lea, Flood 2014: Fast splittable pseudorandom number generators).
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST_FACTOR = np.uint64(0xBF58476D1CE4E5B9)
SECOND_FACTOR = np.uint64(0x94D049BB133111EB)
BLOCK_CHARACTERS = 1_000_000
# Positions within a word repeat after this number of characters.
WORD_POSITIONS = 1024


def word_hashes(text: str) -> Hashes:
    """Return the hash of each word of the text [W].

    Long texts are cut at white space into blocks, which need about 45 bytes a character.
    """
    found = [_block_hashes(block) for block in cut(text, BLOCK_CHARACTERS)]
    return np.concatenate([np.empty(0, dtype=np.uint64), *found])


def _block_hashes(text: str) -> Hashes:
    points = np.frombuffer(text.encode("utf-32-le", "replace"), dtype=np.uint32)
    classes, values = _tables()
    kinds_C = classes.take(points, mode="clip")
    values_C = values.take(points, mode="clip")
    # Marks vanish, and so do digits after a digit.
    dropped_C = kinds_C == MARK
    dropped_C[1:] |= (kinds_C[1:] == DIGIT) & (kinds_C[:-1] == DIGIT)
    if dropped_C.any():
        kept_C = ~dropped_C
        kinds_C, values_C = kinds_C[kept_C], values_C[kept_C]
    inside_C = kinds_C != SEPARATOR
    if not inside_C.any():
        return np.empty(0, dtype=np.uint64)
    # A word begins after a separator, and at an ideograph and after one.
    starts_C = inside_C.copy()
    starts_C[1:] &= ~inside_C[:-1]
    ideographs_C = kinds_C == IDEOGRAPH
    if ideographs_C.any():
        starts_C |= ideographs_C
        starts_C[1:] |= ideographs_C[:-1] & inside_C[1:]
    starts_W = np.flatnonzero(starts_C)
    # Separators have the value 0, so they may stay in the sum of the word before them.
    lengths_W = np.diff(starts_W, append=len(kinds_C))
    values_C = values_C[starts_W[0] :]
    positions_C = np.arange(starts_W[0], len(kinds_C)) - np.repeat(starts_W, lengths_W)
    values_C = values_C * _powers().take(positions_C, mode="wrap")
    return mix(np.add.reduceat(values_C, starts_W - starts_W[0]))


def ngram_hashes(words_W: Hashes, size: int) -> Hashes:
    """Return the hash of each n-gram of `size` words [G]; a shorter text has none."""
    return ngram_hashes_of_sizes(words_W, range(size, size + 1))


def ngram_hashes_of_sizes(words_W: Hashes, sizes: range) -> Hashes:
    """Return the hashes of the n-grams of each size, one size after the other [G]."""
    found = [np.empty(0, dtype=np.uint64)]
    sums = words_W
    for size in range(1, min(sizes.stop - 1, len(words_W)) + 1):
        if size > 1:
            sums = sums[:-1] * GOLDEN + words_W[size - 1 :]
        if size in sizes:
            found.append(mix(sums))
    return np.concatenate(found)


def mix(values: Hashes) -> Hashes:
    """Return the output function of SplitMix64 on each value."""
    values = values + GOLDEN
    values ^= values >> np.uint64(30)
    values *= FIRST_FACTOR
    values ^= values >> np.uint64(27)
    values *= SECOND_FACTOR
    values ^= values >> np.uint64(31)
    return values


@cache
def _tables() -> tuple[npt.NDArray[np.uint8], Hashes]:
    """Return class and value of each code point; the value of separators and marks is 0."""
    classes = np.zeros(CODE_POINTS, dtype=np.uint8)
    normal = np.zeros(CODE_POINTS, dtype=np.uint64)
    for point in range(CODE_POINTS - 1):  # the last entry stands for all code points beyond
        character = chr(point)
        category = unicodedata.category(character)
        if MARKS[0] <= point < MARKS[1]:
            classes[point] = MARK
        elif category == "Nd":
            classes[point], normal[point] = DIGIT, ord("0")
        elif category[0] in "LM" or category == "Nl":
            classes[point] = LETTER
            parts = unicodedata.normalize("NFKD", character.lower())
            # An accented letter counts as its base letter; syllables of Hangul stay whole.
            accented = all(unicodedata.combining(part) for part in parts[1:])
            normal[point] = ord(parts[0].lower()) if accented else point
    for first, end in UNSPACED:
        letters = classes[first:end] == LETTER
        classes[first:end][letters] = IDEOGRAPH
    values = mix(normal)
    values[normal == 0] = 0
    return classes, values


@cache
def _powers() -> Hashes:
    """Return the factor of each position in a word: powers of an odd number modulo 2^64."""
    powers = np.full(WORD_POSITIONS, GOLDEN, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)
