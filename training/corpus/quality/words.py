"""Words and sentences of a text, equal to those of spaCy's blank pipelines.

spaCy splits a text at whitespace and tokenizes each chunk by itself. The words of a chunk are
therefore kept in a table, which makes the tokenization of ordinary text several times faster. Only
matches of special cases over a space depend on several chunks (`special_cases.py`); texts in which
that can matter are tokenized by spaCy as a whole.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from training.corpus.quality.punctuation import SYMBOLS
from training.corpus.quality.special_cases import SpecialCases, blank_pipeline

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc

# Measured with 194,000 words and 303,000 chunks of manuals and encyclopedia: 192 MB.
WORD_BYTES = 600
CHUNK_BYTES = 220
TABLE_BYTES = 256 * 2**20
MAX_KEPT_CHUNK = 100
# spaCy removes affixes one by one and searches the rest each time: 1,000 brackets take 0.13 s and
# 3,000 take 1.7 s. C4 drops lines with words of more than 1,000 characters, so that longer chunks
# are cut there, and chunks with more than 100 affixes into pieces of 100 characters.
MAX_CHUNK = 1000
MAX_AFFIXES = 100
CUT_CHUNK = 100
AFFIX_WINDOW = 64

HASH_BASE = 0x9E3779B97F4A7C15
HASH_MASK = (1 << 64) - 1

# Classes of a word in the rule of spaCy's sentencizer.
OTHER, PUNCTUATION, SENTENCE_END = 0, 1, 2
_WHITESPACE_OR_CHUNK = re.compile(r"\s+|\S+")
# A multiple of the places at which chunks are cut.
PART_CHARACTERS = 100 * MAX_CHUNK
_PART = re.compile(rf"(?s:.{{1,{PART_CHARACTERS}}}(?!\S)|.{{1,{PART_CHARACTERS}}})")


class Vocabulary:
    """Words of one language with the properties that the rules count.

    Attributes:
        texts: the words by number.
        chunks: numbers of the words of each chunk.
        contextual: the same for chunks whose words may depend on their neighbours.
        bytes: memory of the vocabulary and of spaCy's strings, estimated.
    """

    def __init__(self, pipeline: Language) -> None:
        self.texts: list[str] = []
        self.chunks: dict[str, tuple[int, ...]] = {}
        self.contextual: dict[str, tuple[int, ...]] = {}
        self.bytes = 0
        self._pipeline = pipeline
        self._numbers: dict[str, int] = {}
        sentencizer: Any = pipeline.get_pipe("sentencizer")
        self._sentence_ends = frozenset(sentencizer.punct_chars)
        self._lengths = array("q")
        self._hashes = array("Q")
        self._powers = array("Q")
        self._symbols = array("b")
        self._letters = array("b")
        self._sentence_classes = array("b")

    def number(self, word: str) -> int:
        """Return the number of the word; add the word if it is new."""
        known = self._numbers.get(word)
        if known is not None:
            return known
        value = 0
        for character in word:
            value = (value * HASH_BASE + ord(character)) & HASH_MASK
        self._lengths.append(len(word))
        self._hashes.append(value)
        self._powers.append(pow(HASH_BASE, len(word), HASH_MASK + 1))
        self._symbols.append(SYMBOLS.issuperset(word))
        self._letters.append(any(map(str.isalpha, word)))
        self._sentence_classes.append(self._sentence_class(word))
        self.texts.append(word)
        self._numbers[word] = len(self._numbers)
        self.bytes += WORD_BYTES + 3 * len(word)
        return self._numbers[word]

    def keep(self, chunk: str, entry: tuple[int, ...], table: dict[str, tuple[int, ...]]) -> None:
        """Add a chunk to `chunks` or `contextual`."""
        table[chunk] = entry
        self.bytes += CHUNK_BYTES + len(chunk) + 8 * len(entry)

    def _sentence_class(self, word: str) -> int:
        if word in self._sentence_ends:
            return SENTENCE_END
        return PUNCTUATION if self._pipeline.vocab[word].is_punct else OTHER

    def known(self, words: Iterable[str]) -> set[int]:
        """Return the numbers of those words that occurred so far."""
        return {self._numbers[word] for word in words if word in self._numbers}

    def lengths(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the characters of each word."""
        return np.frombuffer(self._lengths, np.int64)[numbers]

    def hashes(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return the polynomial hash of each word, modulo 2**64."""
        return np.frombuffer(self._hashes, np.uint64)[numbers]

    def powers(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Return HASH_BASE to the power of each word's length, modulo 2**64."""
        return np.frombuffer(self._powers, np.uint64)[numbers]

    def symbols(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return true for each word that consists of SYMBOLS only."""
        return np.frombuffer(self._symbols, np.bool_)[numbers]

    def letters(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return true for each word with an alphabetic character."""
        return np.frombuffer(self._letters, np.bool_)[numbers]

    def sentence_class(self, number: int) -> int:
        """Return OTHER, PUNCTUATION or SENTENCE_END."""
        return self._sentence_classes[number]


class Words:
    """The words of a text in order, without whitespace.

    Attributes:
        numbers: numbers of the words in the vocabulary. [words]
    """

    def __init__(self, text: str, numbers: npt.NDArray[np.int64], vocabulary: Vocabulary) -> None:
        self.text = text
        self.numbers = numbers
        self.vocabulary = vocabulary

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """The characters of each word."""
        return self.vocabulary.lengths(self.numbers)

    @cached_property
    def texts(self) -> list[str]:
        """The words of the text."""
        return [self.vocabulary.texts[number] for number in self.numbers.tolist()]

    def count_distinct(self, words: frozenset[str]) -> int:
        """Return the number of words of the set that occur in the text."""
        return len(self.vocabulary.known(words).intersection(self.numbers.tolist()))


class Tokenizer:
    """Words and sentences of texts in one language.

    Args:
        language: code of a spaCy pipeline whose words are separated by spaces, for example "en".

    Raises:
        CorpusError: spaCy needs a further package for the language, or does not know it.
    """

    def __init__(self, language: str) -> None:
        self._language = language
        self.clear()

    def clear(self) -> None:
        """Empty the table; results returned before stay valid."""
        # spaCy keeps each string for the life of a pipeline. Its memory zones fail on texts with
        # names of its attributes, as "IS_ALPHA".
        self._pipeline = blank_pipeline(self._language)
        self._sentencizer = self._pipeline.get_pipe("sentencizer")
        self._special_cases = SpecialCases(self._pipeline)
        self._vocabulary = Vocabulary(self._pipeline)
        self._last: Words | None = None

    @property
    def bytes(self) -> int:
        """The memory of the table and of spaCy's strings, estimated."""
        return self._vocabulary.bytes

    def words(self, text: str) -> Words:
        """Return the words of a text. The last result is kept, because several rules need it."""
        if self._last is not None and self._last.text == text:
            return self._last
        self._last = Words(text, self._numbers(text), self._vocabulary)
        return self._last

    def parts(self, text: str) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the words of successive parts of a text, cut at white space where there is any.

        Words beside a cut may differ from those of the whole text.
        """
        for part in _PART.finditer(text):
            yield self._numbers(part.group())

    def symbols(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return true for each word of `parts` that consists of SYMBOLS only."""
        return self._vocabulary.symbols(numbers)

    def sentences(self, text: str, enough: int) -> int:
        """Return the number of sentences of a text, at most `enough`.

        Sentences are those of spaCy's sentencizer: a sentence begins with the first word after a
        sentence end that is no punctuation. Whitespace of two characters or more is such a word.
        """
        parts = _WHITESPACE_OR_CHUNK.findall(text)
        chunks = [part for part in parts if not part.isspace()]
        entries, dependent = self._entries(chunks)
        if self._depends_on_context(text, chunks, dependent):
            doc = self._sentencizer(self._pipeline.tokenizer(text))
            return min(enough, sum(1 for _ in doc.sents))
        found, ended, following = 1, False, iter(entries)
        for part in parts:
            if part.isspace():
                # A space between chunks is no token, other whitespace is.
                if ended and part != " ":
                    found, ended = found + 1, False
                continue
            for number in next(following):
                kind = self._vocabulary.sentence_class(number)
                if kind == SENTENCE_END:
                    ended = True
                elif ended and kind == OTHER:
                    found, ended = found + 1, False
            if found >= enough:
                return enough
        return min(found, enough)

    def _numbers(self, text: str) -> npt.NDArray[np.int64]:
        chunks = text.split()
        entries, dependent = self._entries(chunks)
        if not self._depends_on_context(text, chunks, dependent):
            return np.fromiter(chain.from_iterable(entries), np.int64)
        if "\n" in text:
            # Chunks influence each other over a single space only.
            return np.concatenate([self._numbers(line) for line in text.split("\n")])
        tokens = [token.text for token in self._pipeline.tokenizer(text) if not token.is_space]
        return np.fromiter(map(self._vocabulary.number, tokens), np.int64)

    def _entries(self, chunks: list[str]) -> tuple[list[tuple[int, ...]], bool]:
        """Return the words of each chunk, and whether chunks may influence each other."""
        known = self._vocabulary.chunks
        entries = [known.get(chunk) for chunk in chunks]
        if None not in entries:
            return entries, False  # type: ignore[return-value]  # no element is None
        missing = [place for place, entry in enumerate(entries) if entry is None]
        fresh = self._learn({chunks[place] for place in missing})
        for place in missing:
            entries[place] = fresh[chunks[place]]
        found: list[tuple[int, ...]] = entries  # type: ignore[assignment]
        return found, any(
            chunks[place] in self._vocabulary.contextual
            and self._neighbours_matter(chunks, found, place)
            for place in missing
        )

    def _depends_on_context(self, text: str, chunks: list[str], dependent: bool) -> bool:
        """Return true if spaCy must see the text as a whole; it never sees chunks to be cut."""
        return (dependent or self._special_cases.occur_over_spaces(text)) and not any(
            len(self._pieces(chunk)) > 1 for chunk in chunks
        )

    def _neighbours_matter(
        self, chunks: list[str], entries: list[tuple[int, ...]], place: int
    ) -> bool:
        texts, contextual = self._vocabulary.texts, self._vocabulary.contextual
        if place > 0 and (
            chunks[place - 1] in contextual
            or texts[entries[place - 1][-1]] in self._special_cases.beginnings
        ):
            return True
        return place + 1 < len(chunks) and (
            chunks[place + 1] in contextual
            or texts[entries[place + 1][0]] in self._special_cases.continuations
        )

    def _learn(self, chunks: set[str]) -> dict[str, tuple[int, ...]]:
        """Return the words of chunks, tokenized by spaCy; short ones are added to the table."""
        vocabulary = self._vocabulary
        fresh = {
            chunk: vocabulary.contextual[chunk]
            for chunk in chunks
            if chunk in vocabulary.contextual
        }
        # Sorted, so that the numbers of words do not depend on the order of a set.
        pending = [(chunk, self._pieces(chunk)) for chunk in sorted(chunks.difference(fresh))]
        pieces = [piece for _, several in pending for piece in several]
        tokenized = _words_of_lines(self._pipeline.tokenizer("\n".join(pieces)))
        for chunk, several in pending:
            words = [word for _ in several for word in next(tokenized)]
            entry = tuple(vocabulary.number(word) for word in words)
            fresh[chunk] = entry
            if len(several) == 1 and self._special_cases.changed(chunk, words):
                vocabulary.keep(chunk, entry, vocabulary.contextual)
            elif len(chunk) <= MAX_KEPT_CHUNK:
                vocabulary.keep(chunk, entry, vocabulary.chunks)
        return fresh

    def _pieces(self, chunk: str) -> list[str]:
        """Return the chunk, or its parts where spaCy would take time quadratic in its length."""
        if len(chunk) <= CUT_CHUNK:
            return [chunk]
        size = CUT_CHUNK if self._has_many_affixes(chunk) else MAX_CHUNK
        return [chunk[start : start + size] for start in range(0, len(chunk), size)]

    def _has_many_affixes(self, chunk: str) -> bool:
        tokenizer: Any = self._pipeline.tokenizer
        start, end, found = 0, len(chunk), 0
        while found <= MAX_AFFIXES:
            # Affixes are short; a window bounds the search for suffixes.
            prefix = tokenizer.find_prefix(chunk[start : start + AFFIX_WINDOW])
            suffix = tokenizer.find_suffix(chunk[max(0, end - AFFIX_WINDOW) : end])
            start, end, found = start + prefix, end - suffix, found + (prefix > 0) + (suffix > 0)
            if start >= end or prefix == suffix == 0:
                return False
        return True


def _words_of_lines(doc: Doc) -> Iterator[list[str]]:
    """Yield the words of each line; a line has no whitespace."""
    words: list[str] = []
    for token in doc:
        text = token.text
        if text == "\n":
            yield words
            words = []
        else:
            words.append(text)
    yield words
