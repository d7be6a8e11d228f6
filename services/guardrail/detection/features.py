"""Features of the classifier: hashes of words, word pairs and character n-grams.

The training recipe has the same function; a test compares both. All arithmetic uses 32 bits, so
that all machines compute the same buckets.
"""

import re
from typing import Any
from zlib import crc32

import numpy as np

BUCKET_BITS = 17
SHORTEST_NGRAM, LONGEST_NGRAM = 3, 5
WORD = re.compile(r"\w+|[?!]")
MULTIPLIER = np.uint32(0x9E3779B1)
PAIR_MULTIPLIER = np.uint32(0x85EBCA6B)


def feature_buckets(text: str) -> Any:
    """Return the sorted unique buckets [N] of a text in the form of `normalization.plain`."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32)
    words = np.array([crc32(word.encode()) for word in WORD.findall(text)], dtype=np.uint32)
    hashes = [words, words[:-1] * PAIR_MULTIPLIER + words[1:]]
    # Hashes of all n-grams of one length follow from those of the next shorter length.
    ngrams = codes * MULTIPLIER
    for length in range(2, LONGEST_NGRAM + 1):
        ngrams = (ngrams[:-1] ^ (ngrams[:-1] >> np.uint32(15))) * MULTIPLIER + codes[length - 1 :]
        if length >= SHORTEST_NGRAM:
            hashes.append(ngrams + np.uint32(length))
    mixed = np.concatenate(hashes) * MULTIPLIER
    mixed ^= mixed >> np.uint32(16)
    return np.unique((mixed * PAIR_MULTIPLIER) >> np.uint32(32 - BUCKET_BITS))
