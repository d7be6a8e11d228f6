"""English words and word pairs with frequencies, and a search for similar spellings.

The index follows SymSpell (deletion of up to two letters from the first seven, of both words), with
sorted arrays of hashes. The index of symspellpy takes 4.7 s to load; this index is built at every
start in about 0.5 s, so that no cache file is needed.
"""

import re
from functools import lru_cache
from importlib.resources import files
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

# Defaults of symspellpy, for which its dictionary was made.
PREFIX_LETTERS = 7
MAX_DISTANCE = 2
# Sum of Google's one-trillion-token n-gram counts, from which symspellpy's two lists are taken.
CORPUS_TOKENS = 1_024_908_267_229
POWERS = np.array(
    [pow(1_000_003, place + 1, 2**32) for place in range(PREFIX_LETTERS)], dtype=np.uint32
)

# The list is British ("colours", "analyse"). American spellings get the count of the British word.
AMERICAN_SPELLINGS = (
    (re.compile(r"our(?=s?$|ed$|ing$|ite|able|ful|less|al$|ally$|ist|hood)"), "or"),
    (re.compile(r"is(?=e[sdr]?$|ers$|ing$|ation)"), "iz"),
    (re.compile(r"ys(?=e[sdr]?$|ers$|ing$)"), "yz"),
    (re.compile(r"tre(?=s?$|d$)"), "ter"),
    (re.compile(r"terd$"), "tered"),
    (re.compile(r"tring$"), "tering"),
    (re.compile(r"ll(?=ed$|ing$|er$|ers$)"), "l"),
    (re.compile(r"ence(?=s?$)"), "ense"),
    (re.compile(r"ogue(?=s?$)"), "og"),
    (re.compile(r"(?<=\w)ae(?=\w)"), "e"),
)
MIN_RESPELLED_LETTERS = 6
# Folder of words that the list lacks: words of Wikipedia passages and school science questions (the
# training parts of BoolQ and ARC), American spellings that no rule above covers, and handwritten
# names, technical terms and commands.
WORD_LISTS = Path(__file__).parent / "words"


def american(word: str) -> str:
    """Return a British word in American spelling, and any other word unchanged."""
    if len(word) >= MIN_RESPELLED_LETTERS:
        for british, letters in AMERICAN_SPELLINGS:
            word = british.sub(letters, word)
    return word


@lru_cache(maxsize=PREFIX_LETTERS + 1)
def _kept_positions(length: int) -> list[tuple[int, ...]]:
    """Return the kept positions of a prefix for all deletions of up to MAX_DISTANCE letters."""
    return [
        places
        for deleted in range(min(MAX_DISTANCE, length) + 1)
        for places in combinations(range(length), length - deleted)
    ]


def _hashes(letters: Any) -> Any:
    """Return hashes [N, D] of prefixes [N, L] after each of the D deletions."""
    columns = []
    for places in _kept_positions(letters.shape[1]):
        kept = letters[:, list(places)].astype(np.uint32)
        columns.append(
            (kept * POWERS[: len(places)]).sum(axis=1, dtype=np.uint32) + np.uint32(len(places))
        )
    return np.stack(columns, axis=1)


class Vocabulary:
    """Words with counts, pairs of words with counts, and uncommon words, all in lower case.

    Uncommon words are correct but never candidates for another word.
    """

    def __init__(
        self,
        counts: dict[str, int],
        pair_counts: dict[str, int],
        uncommon: frozenset[str] = frozenset(),
    ) -> None:
        self.counts = counts
        self.uncommon = uncommon
        self.pair_counts = pair_counts
        self._words = list(counts)
        self._letters = np.array([_letter_set(word) for word in self._words], dtype=np.uint32)
        self._lengths = np.array([len(word) for word in self._words], dtype=np.int16)
        # Index: hash of a word after deletions → number of the word, sorted by hash.
        by_length: dict[int, list[int]] = {}
        for number, word in enumerate(self._words):
            by_length.setdefault(min(len(word), PREFIX_LETTERS), []).append(number)
        hashes, owners = [], []
        for length, numbers in by_length.items():
            text = "".join(self._words[number][:length] for number in numbers)
            letters = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).reshape(
                len(numbers), length
            )
            found = _hashes(letters)
            hashes.append(found.ravel())
            owners.append(np.repeat(np.array(numbers, dtype=np.int32), found.shape[1]))
        joined = np.concatenate(hashes)
        order = np.argsort(joined, kind="stable")
        self._hashes, self._owners = joined[order], np.concatenate(owners)[order]

    def similar(self, word: str, max_distance: int) -> tuple[tuple[str, int], ...]:
        """Return other words within `max_distance` (1 or 2) edits, with their distances.

        The distance is optimal string alignment.
        """
        prefix = word[:PREFIX_LETTERS]
        letters = np.frombuffer(prefix.encode("utf-32-le"), dtype=np.uint32).reshape(1, len(prefix))
        # The hashes are in the order of the number of deletions; use those within the distance.
        most_deleted = min(max_distance, len(prefix))
        ways = sum(comb(len(prefix), deleted) for deleted in range(most_deleted + 1))
        wanted = _hashes(letters)[0][:ways]
        first, past = (
            np.searchsorted(self._hashes, wanted, "left"),
            np.searchsorted(self._hashes, wanted, "right"),
        )
        owners = [
            self._owners[start:end]
            for start, end in zip(first.tolist(), past.tolist(), strict=True)
            if start < end
        ]
        if not owners:
            return ()
        numbers = np.unique(np.concatenate(owners))
        # Cheap filter: an edit changes the length by at most one and the letter set by at most two.
        far = (
            np.bitwise_count(self._letters[numbers] ^ np.uint32(_letter_set(word)))
            > 2 * max_distance
        )
        numbers = numbers[~far & (np.abs(self._lengths[numbers] - len(word)) <= max_distance)]
        near = (
            (self._words[number], distance(word, self._words[number], max_distance))
            for number in numbers.tolist()
        )
        return tuple(pair for pair in near if 0 < pair[1] <= max_distance)


def distance(left: str, right: str, limit: int) -> int:
    """Return the optimal string alignment distance of two words.

    The edits are insertions, deletions, substitutions and swaps of adjacent letters. A distance
    above `limit` is returned as any larger number.
    """
    shared = min(len(left), len(right))
    first = 0
    while first < shared and left[first] == right[first]:
        first += 1
    last = 0
    while last < shared - first and left[-1 - last] == right[-1 - last]:
        last += 1
    left, right = left[first : len(left) - last], right[first : len(right) - last]
    if not left or not right:
        return max(len(left), len(right))
    if limit <= 0:
        return limit + 1
    if len(left) == len(right) == 1:
        return 1
    ways = [distance(left[1:], right[1:], limit - 1), distance(left[1:], right, limit - 1)]
    ways.append(distance(left, right[1:], limit - 1))
    if left[:2] == right[1::-1]:
        ways.append(distance(left[2:], right[2:], limit - 1))
    return 1 + min(ways)


def _letter_set(word: str) -> int:
    """Return the letters of a word as bits; all other characters share the last bit."""
    return int(sum({1 << (ord(letter) - 97 if "a" <= letter <= "z" else 26) for letter in word}))


def read_vocabulary(extra_words: dict[str, int]) -> Vocabulary:
    """Read the lists of symspellpy and add `extra_words` with their counts."""
    package = files("symspellpy")
    counts = {
        word: int(count)
        for word, count in (
            line.split() for line in _lines(package, "frequency_dictionary_en_82_765.txt")
        )
    }
    counts |= {new: counts[word] for word in list(counts) if (new := american(word)) not in counts}
    pairs = {}
    for line in _lines(package, "frequency_bigramdictionary_en_243_342.txt"):
        pair, _, count = line.rpartition(" ")
        pairs[pair] = int(count)
    uncommon = frozenset(
        word for file in sorted(WORD_LISTS.glob("*.txt")) for word in file.read_text().split()
    )
    return Vocabulary({**counts, **extra_words}, pairs, uncommon)


def _lines(package: Any, name: str) -> list[str]:
    return str(package.joinpath(name).read_text(encoding="utf-8-sig")).split("\n")[:-1]
