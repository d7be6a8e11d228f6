"""Spelling correction: the most likely path through the candidates of a run of words.

The model is a noisy channel (Kernighan, Church and Gale, 1990): the probability of the typo times
the probability of the word after the previous word.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from services.enhancer.correction.edits import EditKind
from services.enhancer.correction.known_words import ABBREVIATION_CONTEXTS, ABBREVIATIONS
from services.enhancer.correction.vocabulary import CORPUS_TOKENS, Vocabulary, american

# Natural logarithms of probabilities, tuned by hand on the sentences named in
# docs/decisions/enhancer.md.
TYPO = -5.0
SECOND_TYPO = -5.5
LIKELY_TYPO_BONUS = 2.0
FIRST_LETTER_PENALTY = -2.5
# An existing word is rarely a typo for another word, and then by a missing letter ("writ a
# letter").
REAL_WORD_TYPO = -7.0
# An unknown word that is correct, such as a name or a term. Less likely for long words, which are
# rarely close to another word by chance.
UNKNOWN_WORD = -16.0
UNKNOWN_LETTER = -0.8
# More frequent words are never corrected: a check takes time and finds false positives.
MIN_TRUSTED_COUNT = 2_000_000
MIN_CHECKED_LETTERS = 4
MIN_UNKNOWN_LETTERS = 3
MIN_TWO_TYPO_LETTERS = 5
# A short unknown word is an acronym or a typo for a frequent word, hardly for a rare word ("udp" is
# not "dup").
MAX_SHORT_LETTERS = 4
MIN_SHORT_WORD_COUNT = 10_000_000
MAX_CANDIDATES = 10
PAIR_WEIGHT = 0.8
# Size of the cache of candidates, since people make the same typos.
CACHED_WORDS = 20_000
VOWELS = frozenset("aeiouy")


@dataclass(frozen=True)
class Candidate:
    """A possible intended word, with the log-probability of the typed word given this word."""

    word: str
    log_prob: float
    kind: EditKind = EditKind.SPELLING


@dataclass(frozen=True)
class TypedWord:
    """A typed word in lower case.

    A `fixed` word is not corrected. `capital` is true for a capital first letter, possibly a name.
    """

    word: str
    fixed: bool = False
    capital: bool = False


class Speller:
    """Corrects runs of words in lower case with one vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._similar = lru_cache(maxsize=CACHED_WORDS)(self._find_similar)

    def knows(self, word: str) -> bool:
        """Return True if the word is in the word lists, with or without a possessive s."""
        counts = self._vocabulary.counts
        return (
            word in counts
            or word in self._vocabulary.uncommon
            or (word.endswith("'s") and word[:-2] in counts)
        )

    def likely_correction(self, word: str) -> str:
        """Return the frequent word that differs from an unknown word by one likely typo, or ""."""
        likely = [each.word for each in self._similar(word, 1) if each.log_prob > TYPO]
        if likely and self._vocabulary.counts[likely[0]] >= MIN_TRUSTED_COUNT:
            return likely[0]
        return ""

    def correct(self, words: Sequence[TypedWord]) -> list[Candidate]:
        """Return the most likely candidate for each word, possibly the word itself.

        Fixed words only affect their neighbours. The search is a Viterbi search over bigrams.
        """
        paths: dict[str, tuple[float, list[Candidate]]] = {"": (0.0, [])}
        for index in range(len(words)):
            reached: dict[str, tuple[float, list[Candidate]]] = {}
            for candidate in self._candidates(words, index):
                score, path = max(
                    (
                        (score + self._bigram_log_prob(previous, candidate.word), path)
                        for previous, (score, path) in paths.items()
                    ),
                    key=lambda scored: scored[0],
                )
                reached[candidate.word] = (score + candidate.log_prob, [*path, candidate])
            paths = reached
        return max(paths.values(), key=lambda scored: scored[0])[1]

    def _candidates(self, words: Sequence[TypedWord], index: int) -> list[Candidate]:
        word = words[index].word
        if words[index].fixed:
            return [Candidate(word, 0.0)]
        if word in ABBREVIATIONS and _is_abbreviation(words, index):
            return [
                Candidate(meant, 0.0, _abbreviation_kind(word, meant))
                for meant in ABBREVIATIONS[word]
            ]
        before = words[index - 1].word if index else ""
        following = words[index + 1].word if index + 1 < len(words) else ""
        if self._is_trusted(word) or self._is_pair(before, word) or self._is_pair(word, following):
            return [Candidate(word, 0.0)]
        if self.knows(word):
            longer = [
                each
                for each in self._similar(word, 1)
                if each.log_prob > TYPO and len(each.word) > len(word)
            ]
            # A British and an American spelling of one word are both correct.
            others = [each for each in longer if american(each.word) != american(word)]
            return [
                Candidate(word, 0.0),
                *(Candidate(each.word, each.log_prob + REAL_WORD_TYPO) for each in others),
            ]
        similar = self._similar(word, 1 if len(word) < MIN_TWO_TYPO_LETTERS else 2)
        if len(word) <= MIN_UNKNOWN_LETTERS:
            similar = [each for each in similar if each.log_prob > TYPO]
        if len(word) <= MAX_SHORT_LETTERS:
            similar = [
                each
                for each in similar
                if self._vocabulary.counts[each.word] >= MIN_SHORT_WORD_COUNT
            ]
        if words[index].capital:
            # Possibly a name: correct only swapped letters in a known pair of words.
            similar = [
                each
                for each in similar
                if sorted(each.word) == sorted(word) and self._is_pair(each.word, following)
            ]
        return [Candidate(word, UNKNOWN_WORD + UNKNOWN_LETTER * len(word)), *similar]

    def _is_trusted(self, word: str) -> bool:
        known = self.knows(word)
        shortest = MIN_CHECKED_LETTERS if known or not VOWELS & set(word) else MIN_UNKNOWN_LETTERS
        often = known and self._vocabulary.counts.get(word, MIN_TRUSTED_COUNT) >= MIN_TRUSTED_COUNT
        return often or len(word) < shortest or "'" in word

    def _is_pair(self, word: str, following: str) -> bool:
        return f"{word} {following}" in self._vocabulary.pair_counts

    def _find_similar(self, word: str, max_typos: int) -> list[Candidate]:
        counts = self._vocabulary.counts
        found = [
            Candidate(meant, _typo_log_prob(word, meant, distance))
            for meant, distance in self._vocabulary.similar(word, max_typos)
            # Two typos and another first letter are chance ("habeas" is not "areas").
            if distance == 1 or meant[0] == word[0]
        ]
        found.sort(key=lambda each: -(each.log_prob + math.log(counts[each.word])))
        return found[:MAX_CANDIDATES]

    def _bigram_log_prob(self, previous: str, word: str) -> float:
        """Return log P(word | previous), interpolated between bigram and unigram frequencies."""
        counts = self._vocabulary.counts
        # A candidate may be a phrase: its first word follows, its last word precedes.
        word, previous = word.lower().partition(" ")[0], previous.lower().rpartition(" ")[2]
        alone = counts.get(word, 0) / CORPUS_TOKENS
        if not alone:
            return 0.0
        before = counts.get(previous, 0)
        pair = self._vocabulary.pair_counts.get(f"{previous} {word}", 0) / before if before else 0.0
        return math.log(
            PAIR_WEIGHT * min(pair, 1.0) + (1 - PAIR_WEIGHT) * alone if before else alone
        )


def _abbreviation_kind(word: str, meant: str) -> EditKind:
    if sorted(word) == sorted(meant):
        return EditKind.SPELLING
    return EditKind.PUNCTUATION if meant.replace("'", "").lower() == word else EditKind.ABBREVIATION


def _is_abbreviation(words: Sequence[TypedWord], index: int) -> bool:
    if words[index].word not in ABBREVIATION_CONTEXTS:
        return True
    before, after = ABBREVIATION_CONTEXTS[words[index].word]
    return (index > 0 and words[index - 1].word in before) or (
        index + 1 < len(words) and words[index + 1].word in after
    )


def _typo_log_prob(typed: str, meant: str, distance: int) -> float:
    """Return log P(typed | meant).

    Doubled, swapped and missing letters and wrong vowels are the likely typos.
    """
    score = TYPO if distance == 1 else TYPO + SECOND_TYPO
    if typed[0] != meant[0]:
        score += FIRST_LETTER_PENALTY if sorted(typed[:2]) != sorted(meant[:2]) else 0.0
    if (
        sorted(typed) == sorted(meant)
        or _consonants(typed) == _consonants(meant)
        or _collapse_doubled(typed) == _collapse_doubled(meant)
    ):
        score += LIKELY_TYPO_BONUS
    return score


def _consonants(word: str) -> str:
    return "".join(letter for letter in _collapse_doubled(word) if letter not in VOWELS)


def _collapse_doubled(word: str) -> str:
    return "".join(
        letter for index, letter in enumerate(word) if index == 0 or word[index - 1] != letter
    )
