"""Decides which words were meant: the likeliest path through the candidates of all words of a
stretch.

A noisy channel (Kernighan, Church and Gale, 1990): how likely the slip is, times how likely the
word is after the one before.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.enhancer.edits import Kind
from services.enhancer.known_words import ABBREVIATIONS, BESIDE
from services.enhancer.vocabulary import CORPUS_TOKENS, Vocabulary, american

# Natural logarithms of probabilities, set by hand on the sentences that
# docs/decisions/2026-11-24-enhancer-words.md names.
SLIP = -5.0
SECOND_SLIP = -5.5
EASY_SLIP = 2.0
FIRST_LETTER = -2.5
# A word that exists is rarely a slip for another one, and then a letter was left out ("writ a
# letter").
REAL_WORD_SLIP = -7.0
# An unknown word that is meant: a name, a term. Long words are rarely that close to another by
# chance.
UNKNOWN = -16.0
UNKNOWN_LETTER = -0.8
# Words more frequent than this are never doubted: looking at them costs time and finds false
# alarms.
BEYOND_DOUBT = 2_000_000
SHORTEST_DOUBTED = 4
SHORTEST_UNKNOWN = 3
SHORTEST_FOR_TWO_SLIPS = 5
# A short unknown word is an acronym or a slip for a frequent word, hardly for a rare one ("udp" is
# not "dup").
LONGEST_SHORT = 4
FREQUENT = 10_000_000
MOST_CANDIDATES = 10
PAIR_WEIGHT = 0.8
# People make the same slips: what was found for a word is kept for the next time.
KEPT_WORDS = 20_000
VOWELS = frozenset("aeiouy")


@dataclass(frozen=True)
class Candidate:
    """A word that may be meant, and how likely it is that what was typed stands for it."""

    word: str
    slip: float
    kind: Kind = Kind.SPELLING


@dataclass(frozen=True)
class Typed:
    """A word as it was typed, in small letters; `fixed`: it stands; `capital`: it began with one,
    and may be a name.
    """

    word: str
    fixed: bool = False
    capital: bool = False


class Speller:
    """Corrects stretches of words (in small letters) against one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._similar = lru_cache(maxsize=KEPT_WORDS)(self._find_similar)

    def knows(self, word: str) -> bool:
        """Whether the word is in the lists, with or without a possessive s."""
        counts = self._vocabulary.counts
        return (
            word in counts
            or word in self._vocabulary.uncommon
            or (word.endswith("'s") and word[:-2] in counts)
        )

    def easily_meant(self, word: str) -> str:
        """The frequent word that an unknown one is for, if only an easy slip lies between them;
        else an empty text.
        """
        easy = [one.word for one in self._similar(word, 1) if one.slip > SLIP]
        return easy[0] if easy and self._vocabulary.counts[easy[0]] >= BEYOND_DOUBT else ""

    def correct(self, words: Sequence[Typed]) -> list[Candidate]:
        """For each word what was meant, perhaps itself; words that stand only tell about their
        neighbours.
        """
        paths: dict[str, tuple[float, list[Candidate]]] = {"": (0.0, [])}
        for place in range(len(words)):
            reached: dict[str, tuple[float, list[Candidate]]] = {}
            for candidate in self._candidates(words, place):
                score, path = max(
                    (
                        (score + self._after(previous, candidate.word), path)
                        for previous, (score, path) in paths.items()
                    ),
                    key=lambda scored: scored[0],
                )
                reached[candidate.word] = (score + candidate.slip, [*path, candidate])
            paths = reached
        return max(paths.values(), key=lambda scored: scored[0])[1]

    def _candidates(self, words: Sequence[Typed], place: int) -> list[Candidate]:
        word = words[place].word
        if words[place].fixed:
            return [Candidate(word, 0.0)]
        if word in ABBREVIATIONS and _is_abbreviation(words, place):
            return [Candidate(meant, 0.0, _kind(word, meant)) for meant in ABBREVIATIONS[word]]
        before = words[place - 1].word if place else ""
        following = words[place + 1].word if place + 1 < len(words) else ""
        if (
            self._is_beyond_doubt(word)
            or self._is_pair(before, word)
            or self._is_pair(word, following)
        ):
            return [Candidate(word, 0.0)]
        if self.knows(word):
            left_out = [
                one
                for one in self._similar(word, 1)
                if one.slip > SLIP and len(one.word) > len(word)
            ]
            meant = [one for one in left_out if american(one.word) != american(word)]
            return [
                Candidate(word, 0.0),
                *(Candidate(one.word, one.slip + REAL_WORD_SLIP) for one in meant),
            ]
        similar = self._similar(word, 1 if len(word) < SHORTEST_FOR_TWO_SLIPS else 2)
        if len(word) <= SHORTEST_UNKNOWN:
            similar = [one for one in similar if one.slip > SLIP]
        if len(word) <= LONGEST_SHORT:
            similar = [one for one in similar if self._vocabulary.counts[one.word] >= FREQUENT]
        if words[place].capital:
            similar = [
                one
                for one in similar
                if sorted(one.word) == sorted(word) and self._is_pair(one.word, following)
            ]
        return [Candidate(word, UNKNOWN + UNKNOWN_LETTER * len(word)), *similar]

    def _is_beyond_doubt(self, word: str) -> bool:
        known = self.knows(word)
        shortest = SHORTEST_DOUBTED if known or not VOWELS & set(word) else SHORTEST_UNKNOWN
        often = known and self._vocabulary.counts.get(word, BEYOND_DOUBT) >= BEYOND_DOUBT
        return often or len(word) < shortest or "'" in word

    def _is_pair(self, word: str, following: str) -> bool:
        return f"{word} {following}" in self._vocabulary.pair_counts

    def _find_similar(self, word: str, most_slips: int) -> list[Candidate]:
        counts = self._vocabulary.counts
        found = [
            Candidate(meant, _slip(word, meant, distance))
            for meant, distance in self._vocabulary.similar(word, most_slips)
            # Two slips and another first letter: chance, not a typo ("habeas" is not "areas").
            if distance == 1 or meant[0] == word[0]
        ]
        found.sort(key=lambda one: -(one.slip + math.log(counts[one.word])))
        return found[:MOST_CANDIDATES]

    def _after(self, previous: str, word: str) -> float:
        """log P(word | previous), from the pairs and, where they are silent, from the single words."""
        counts = self._vocabulary.counts
        word, previous = _last(word.lower(), first=True), _last(previous.lower(), first=False)
        alone = counts.get(word, 0) / CORPUS_TOKENS
        if not alone:
            return 0.0
        before = counts.get(previous, 0)
        pair = self._vocabulary.pair_counts.get(f"{previous} {word}", 0) / before if before else 0.0
        return math.log(
            PAIR_WEIGHT * min(pair, 1.0) + (1 - PAIR_WEIGHT) * alone if before else alone
        )


def _last(phrase: str, *, first: bool) -> str:
    return phrase.partition(" ")[0] if first else phrase.rpartition(" ")[2]


def _kind(word: str, meant: str) -> Kind:
    if sorted(word) == sorted(meant):
        return Kind.SPELLING
    return Kind.PUNCTUATION if meant.replace("'", "").lower() == word else Kind.ABBREVIATION


def _is_abbreviation(words: Sequence[Typed], place: int) -> bool:
    if words[place].word not in BESIDE:
        return True
    before, after = BESIDE[words[place].word]
    return (place > 0 and words[place - 1].word in before) or (
        place + 1 < len(words) and words[place + 1].word in after
    )


def _slip(typed: str, meant: str, distance: int) -> float:
    """log P(typed | meant): doubled, swapped and left-out letters and wrong vowels are easy slips."""
    score = SLIP if distance == 1 else SLIP + SECOND_SLIP
    if typed[0] != meant[0]:
        score += FIRST_LETTER if sorted(typed[:2]) != sorted(meant[:2]) else 0.0
    if (
        sorted(typed) == sorted(meant)
        or _consonants(typed) == _consonants(meant)
        or _undoubled(typed) == _undoubled(meant)
    ):
        score += EASY_SLIP
    return score


def _consonants(word: str) -> str:
    return "".join(letter for letter in _undoubled(word) if letter not in VOWELS)


def _undoubled(word: str) -> str:
    return "".join(
        letter for place, letter in enumerate(word) if place == 0 or word[place - 1] != letter
    )
