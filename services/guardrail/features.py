"""Which buckets of the classifier's weights a text touches: hashes of its words, word pairs and
character runs.

The training recipe has the same function, and a test holds the two equal. All arithmetic is on 32
bits, so every machine gets the same buckets.
"""

import re
from typing import Any
from zlib import crc32

import numpy as np

BUCKET_BITS = 17
SHORTEST_RUN, LONGEST_RUN = 3, 5
WORD = re.compile(r"\w+|[?!]")
MULTIPLIER = np.uint32(0x9E3779B1)
PAIR_MULTIPLIER = np.uint32(0x85EBCA6B)


def feature_buckets(text: str) -> Any:
    """The buckets [N] of a text in plain form (disguise.plain), each once, in order."""
    codes = np.frombuffer(f" {text} ".encode("utf-32-le"), dtype=np.uint32)
    hashes = [_words(text)]
    run = codes * MULTIPLIER
    for length in range(2, LONGEST_RUN + 1):
        run = (run[:-1] ^ (run[:-1] >> np.uint32(15))) * MULTIPLIER + codes[length - 1 :]
        if length >= SHORTEST_RUN:
            hashes.append(run + np.uint32(length))
    mixed = np.concatenate(hashes) * MULTIPLIER
    mixed ^= mixed >> np.uint32(16)
    return np.unique((mixed * PAIR_MULTIPLIER) >> np.uint32(32 - BUCKET_BITS))


def _words(text: str) -> Any:
    words = np.array([crc32(word.encode()) for word in WORD.findall(text)], dtype=np.uint32)
    pairs = words[:-1] * PAIR_MULTIPLIER + words[1:]
    return np.concatenate([words, pairs])
