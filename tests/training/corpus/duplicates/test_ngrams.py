"""Normalisation and hashes of words and n-grams."""

import numpy as np
import pytest

from training.corpus.duplicates import ngrams
from training.corpus.duplicates.ngrams import ngram_hashes, word_hashes

EQUAL = {
    "case": ("Hello World", "hello WORLD"),
    "punctuation": ("Hello, (world)!", "hello world"),
    "white space": (" hello\n\tworld ", "hello world"),
    "numbers": ("page 9 of 1024", "page 7 of 3"),
    "accents": ("café naïve", "CAFE NAIVE"),
    "combining accents": ("cafe\u0301", "café"),
    "digits of other scripts": ("page ٤٢", "page 42"),
    "surrogates that cannot be encoded": ("a \ud800 b", "a b"),
}
DIFFERENT = {
    "order of letters": ("listen silent", "silent listen"),
    "place of a space": ("to day", "today"),
    "vowels of Devanagari": ("कि", "का"),
    "syllables of Hangul": ("가", "각"),
    "letters and digits": ("page 1", "page l"),
    "characters beyond the tables": ("\U000e0041 a", "b"),
}


@pytest.mark.parametrize("case", EQUAL)
def test_normalised_words_are_equal(case: str) -> None:
    first, second = map(word_hashes, EQUAL[case])
    assert len(first)
    assert np.array_equal(first, second)


@pytest.mark.parametrize("case", DIFFERENT)
def test_other_words_differ(case: str) -> None:
    first, second = map(word_hashes, DIFFERENT[case])
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("— … !", 0),
        ("one two  three", 3),
        ("don't", 2),
        ("漢字かな", 4),
        ("see 漢字 and kana", 5),
        ("v漢2", 3),
        ("한국어 문서", 2),
        ("ภาษา", 4),
    ],
)
def test_number_of_words(text: str, words: int) -> None:
    assert len(word_hashes(text)) == words


def test_words_do_not_depend_on_their_neighbours() -> None:
    words = ["alpha", "beta", "42", "漢", "gamma" * 500]
    alone = np.concatenate([word_hashes(word) for word in words])
    assert np.array_equal(word_hashes(", ".join(words)), alone)
    assert len(set(alone.tolist())) == len(words)


@pytest.mark.parametrize("word", ["alpha 42 ", "alpha\nbeta", "漢字"])
def test_long_texts_are_cut_between_words(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = word * 500
    whole = word_hashes(text)
    monkeypatch.setattr(ngrams, "BLOCK_CHARACTERS", 1000)
    hashes = word_hashes(text)
    assert np.array_equal(hashes, whole)


def test_ngrams_slide_over_words() -> None:
    words = word_hashes("a b c d a b c")
    grams = ngram_hashes(words, 3)
    assert len(grams) == 5
    assert grams[0] == grams[4]
    assert len(set(grams.tolist())) == 4
    assert not len(ngram_hashes(words, 8))


def test_hashes_of_this_version_are_fixed() -> None:
    """Signatures on disk stay comparable: another hash needs another number in `rows.MAGIC`."""
    grams = ngram_hashes(word_hashes("Ünïcode, 漢字 and 1,024 words"), 5)
    assert [f"{int(gram):016x}" for gram in grams] == PINNED


PINNED = ["20851a18bb1a545e", "b16a832cc1c7812a", "79e5ddfa1b1e83b4"]
