"""The English words with their frequencies, the pairs of words, and quick search for words that are
spelled alike.

SymSpell's idea (delete up to two letters of the first seven, on both sides) over sorted arrays of
hashes: symspellpy's own index takes 4.7 s to load; this one is built in about half a second at
every start, so nothing is cached on disk.
"""

import re
from functools import lru_cache
from importlib.resources import files
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np

# symspellpy's defaults, for which its dictionary was made.
PREFIX_LETTERS = 7
MAX_DISTANCE = 2
# Sum of Google's one-trillion-token n-gram counts, from which symspellpy's two lists are taken.
CORPUS_TOKENS = 1_024_908_267_229
POWERS = np.array(
    [pow(1_000_003, place + 1, 2**32) for place in range(PREFIX_LETTERS)], dtype=np.uint32
)

# The list is British ("colours", "analyse"): American spellings get the count of their twin.
AMERICAN = (
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
SHORTEST_RESPELLED = 6
# Words of Wikipedia passages and school science questions (BoolQ's and ARC's training parts) that
# the list lacks, and American ones that no rule above makes; names, technical terms and commands,
# written by hand.
UNCOMMON = Path(__file__).parent / "words"


def american(word: str) -> str:
    """A British word in American spelling; any other as it is."""
    if len(word) >= SHORTEST_RESPELLED:
        for british, letters in AMERICAN:
            word = british.sub(letters, word)
    return word


@lru_cache(maxsize=PREFIX_LETTERS + 1)
def _kept_places(length: int) -> list[tuple[int, ...]]:
    """Which letters of a prefix stay, for every way to delete up to two."""
    return [
        places
        for deleted in range(min(MAX_DISTANCE, length) + 1)
        for places in combinations(range(length), length - deleted)
    ]


def _ways(length: int, max_distance: int) -> int:
    """How many of `_kept_places` delete at most `max_distance` letters."""
    return sum(comb(length, deleted) for deleted in range(min(max_distance, length) + 1))


def _hashes(letters: Any) -> Any:
    """Hashes [N, ways] of prefixes [N, L] with up to two letters deleted."""
    columns = []
    for places in _kept_places(letters.shape[1]):
        kept = letters[:, list(places)].astype(np.uint32)
        columns.append(
            (kept * POWERS[: len(places)]).sum(axis=1, dtype=np.uint32) + np.uint32(len(places))
        )
    return np.stack(columns, axis=1)


class Vocabulary:
    """Words, counts, pairs, and words that are right but never meant when something else was typed;
    all in lower case.
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
        self._hashes, self._owners = self._index()

    def _index(self) -> tuple[Any, Any]:
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
        joined, joined_owners = np.concatenate(hashes), np.concatenate(owners)
        order = np.argsort(joined, kind="stable")
        return joined[order], joined_owners[order]

    def similar(self, word: str, max_distance: int) -> tuple[tuple[str, int], ...]:
        """Words within `max_distance` (1 or 2) edits (optimal string alignment), with the distance;
        not the word itself.
        """
        prefix = word[:PREFIX_LETTERS]
        letters = np.frombuffer(prefix.encode("utf-32-le"), dtype=np.uint32).reshape(1, len(prefix))
        wanted = _hashes(letters)[0][: _ways(len(prefix), max_distance)]
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
        # One edit changes the length by at most one and the set of letters by at most two.
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
    """Insertions, deletions, substitutions and swaps of neighbours (optimal string alignment);
    beyond `limit`: any larger.
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
    """The letters of a word as bits; what is not a letter shares the last bit."""
    return int(sum({1 << (ord(letter) - 97 if "a" <= letter <= "z" else 26) for letter in word}))


def read_vocabulary(extra_words: dict[str, int]) -> Vocabulary:
    """The lists that come with symspellpy, and words of our own with their counts."""
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
        word for file in sorted(UNCOMMON.glob("*.txt")) for word in file.read_text().split()
    )
    return Vocabulary({**counts, **extra_words}, pairs, uncommon)


def _lines(package: Any, name: str) -> list[str]:
    return str(package.joinpath(name).read_text(encoding="utf-8-sig")).split("\n")[:-1]
