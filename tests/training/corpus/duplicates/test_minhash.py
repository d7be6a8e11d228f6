"""Signatures: fixed values, estimated similarity, and the curve of candidates."""

import numpy as np
import pytest

from training.corpus.document import CorpusError
from training.corpus.duplicates.minhash import (
    FINEWEB,
    MinHashConfig,
    Signatures,
    band_keys,
    estimated_similarity,
    jaccard,
    shingles,
    signature_matrix,
    signatures,
)

PAIRS = 400
WORDS = 120


def pairs_of(similarity: float, seed: int) -> tuple[list[str], list[str], float]:
    """Return texts of random words that share a beginning, and their exact similarity."""
    generator = np.random.default_rng(seed)
    # Of W words and a common beginning of c, c - 4 of 2 (W - 4) - (c - 4) n-grams are common.
    grams = WORDS - FINEWEB.ngram + 1
    common = round(2 * grams * similarity / (1 + similarity)) + FINEWEB.ngram - 1
    numbers = generator.integers(0, 2**40, size=(PAIRS, 2 * WORDS - common))
    words = [[f"w{number:x}x" for number in row] for row in numbers]
    first = [" ".join(row[:WORDS]) for row in words]
    second = [" ".join(row[:common] + row[WORDS:]) for row in words]
    return first, second, jaccard(first[0], second[0])


def letters(texts: list[str]) -> list[str]:
    """Return the texts without digits, which are all equal after normalisation."""
    return [text.translate({ord(str(d)): chr(ord("g") + d) for d in range(10)}) for text in texts]


def candidates(first: Signatures, second: Signatures, config: MinHashConfig) -> float:
    """Return the share of pairs with an equal band key."""
    return float((band_keys(first, config) == band_keys(second, config)).any(axis=1).mean())


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.75, 0.8, 0.9])
def test_candidates_follow_the_curve(similarity: float) -> None:
    first, second, _ = pairs_of(similarity, seed=3)
    first, second = letters(first), letters(second)
    exact = np.mean([jaccard(a, b) for a, b in zip(first, second, strict=True)])
    left, right = signature_matrix(first), signature_matrix(second)
    estimates = estimated_similarity(left, right)
    assert abs(estimates.mean() - exact) < 4 * 0.045 / PAIRS**0.5
    expected = 1 - (1 - exact**FINEWEB.band_hashes) ** FINEWEB.bands
    error = (expected * (1 - expected) / PAIRS) ** 0.5
    assert abs(candidates(left, right, FINEWEB) - expected) < 4 * error + 0.01


def test_signatures_of_this_version_are_fixed() -> None:
    text = "The quick brown fox jumps over the lazy dog, again and again. " * 3
    short = signatures(text)
    long = signatures(
        " ".join(f"word{'abcdefghij'[n % 10]}{'klmno' * (n % 7)}" for n in range(900))
    )
    assert [short[0], short[50], short[111]] == PINNED[0]
    assert [long[0], long[50], long[111]] == PINNED[1]
    assert f"{int(band_keys(short[None])[0, 13]):016x}" == PINNED_KEY


PINNED = [[842760990, 3267024181, 1888380145], [422458551, 467318295, 929970709]]
PINNED_KEY = "0d17d2412ac6479f"


def test_signature_depends_on_the_text_alone() -> None:
    texts = ["", "!", "one", "one two three", "one two three four five six", "漢字" * 40]
    together = signature_matrix(texts)
    assert np.array_equal(together, np.stack([signatures(text) for text in texts]))
    assert len({row.tobytes() for row in together}) == len(texts)
    assert together.shape == (6, 112)
    assert signature_matrix([]).shape == (0, 112)


def test_other_seed_gives_another_signature() -> None:
    assert not np.array_equal(
        signatures("a b c d e f"), signatures("a b c d e f", MinHashConfig(seed=2))
    )


def test_short_text_is_one_ngram() -> None:
    assert len(shingles("two words", 5)) == 1
    assert len(shingles("these are five words here", 5)) == 1
    assert len(shingles("", 5)) == len(shingles("?", 5)) == 1
    assert shingles("", 5) != shingles("?", 5)


def test_equal_minima_in_other_bands_give_other_keys() -> None:
    keys = band_keys(np.zeros((1, 112), dtype=np.uint32))
    assert len(set(keys[0].tolist())) == 14


@pytest.mark.parametrize(
    ("field", "value"), [("ngram", 0), ("ngram", 65), ("bands", 0), ("band_hashes", 74)]
)
def test_settings_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(CorpusError) as caught:
        MinHashConfig(**{field: value})
    assert caught.value.field == f"duplicates.{field}"
    assert caught.value.limit
