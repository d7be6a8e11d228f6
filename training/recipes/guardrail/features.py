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
SHORTEST_RUN, LONGEST_RUN = 3, 5
WORD = re.compile(r"\w+|[?!]")
MULTIPLIER = np.uint32(0x9E3779B1)
PAIR_MULTIPLIER = np.uint32(0x85EBCA6B)

FOLDED_BLOCKS = (
    (0xA0, 0x3400),
    (0xFB00, 0x10000),
    (0x1D400, 0x1D800),
    (0x1F100, 0x1F200),
    (0xE0000, 0xE0080),
)
LOOKALIKES = (
    "авсеіјкмнорԛѕтухԝһԁɡαβγεικνορτυχωɑıӏ‐‑‒–—−’‘“”АВСЕІЈКМНОРЅТУХΑΒΕΖΗΙΚΜΝΟΡΤΥΧ",
    "abceijkmhopqstyxwhdgabyeikvoptuxwail------''\"\"ABCEIJKMHOPSTYXABEZHIKMNOPTYX",
)
SPACE = re.compile(r"\s+")


def _fold(code: int) -> str | None:
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


def plain(text: str) -> str:
    """Return the text folded, in lower case and with single spaces."""
    folded = text if text.isascii() else text.translate(FOLDS)
    return SPACE.sub(" ", folded.casefold()).strip()


def feature_buckets(text: str) -> Any:
    """Return the distinct buckets [N] of a normalised text, in order."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32)
    words = np.array([crc32(word.encode()) for word in WORD.findall(text)], dtype=np.uint32)
    hashes = [words, words[:-1] * PAIR_MULTIPLIER + words[1:]]
    run = codes * MULTIPLIER
    for length in range(2, LONGEST_RUN + 1):
        run = (run[:-1] ^ (run[:-1] >> np.uint32(15))) * MULTIPLIER + codes[length - 1 :]
        if length >= SHORTEST_RUN:
            hashes.append(run + np.uint32(length))
    mixed = np.concatenate(hashes) * MULTIPLIER
    mixed ^= mixed >> np.uint32(16)
    return np.unique((mixed * PAIR_MULTIPLIER) >> np.uint32(32 - BUCKET_BITS))


def rows(texts: Sequence[str]) -> Any:
    """Return a sparse matrix [T, 2**BUCKET_BITS] with rows of length 1."""
    buckets = [feature_buckets(plain(text)) for text in texts]
    sizes = np.array([len(one) for one in buckets])
    values = np.repeat(1.0 / np.sqrt(np.maximum(sizes, 1)), sizes)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    return csr_matrix(
        (values, np.concatenate(buckets).astype(np.int32), ends),
        shape=(len(texts), 1 << BUCKET_BITS),
    )
