"""Characters in repeated n-grams of words, as Gopher's rules for repetition count them.

Hashes of all n-grams give upper bounds within a few array operations. Most texts stay below the
limits by these bounds; the others are counted exactly, on strings. Equal strings have equal hashes,
so that a collision costs time and changes no result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from training.corpus.quality.words import Words


def ngram_hashes(words: Words, longest: int) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield the hashes of the n-grams' concatenated words for n = 2, 3, … longest. [n-grams]

    The hash of a string is a polynomial, so that hash(ab) = hash(a) · base**len(b) + hash(b).
    """
    single = words.vocabulary.hashes(words.numbers)
    powers = words.vocabulary.powers(words.numbers)
    hashes = single
    for n in range(2, longest + 1):
        hashes = hashes[:-1] * powers[n - 1 :] + single[n - 1 :]
        yield hashes


def exceeding_top_ngram(
    words: Words, n: int, hashes: npt.NDArray[np.uint64], limit: float
) -> float | None:
    """Return the share of the text in occurrences of the most frequent n-gram if above the limit.

    Words are joined by spaces. Among equally frequent n-grams the first one counts; overlapping
    occurrences count repeatedly.

    Args:
        hashes: of the n-grams of the words, from `ngram_hashes`.
        limit: share of the text's characters.
    """
    if not len(hashes):
        return None
    longest = int(_ngram_lengths(words, n).max()) + n - 1
    if longest * _longest_run(np.sort(hashes)) / len(words.text) <= limit:
        return None
    texts = words.texts
    shifted = (texts[shift:] for shift in range(n))
    counts = Counter(map(" ".join, zip(*shifted, strict=False)))
    ngram, occurrences = counts.most_common(1)[0]
    share = len(ngram) * occurrences / len(words.text)
    return share if share > limit else None


def exceeding_duplicates(
    words: Words, n: int, hashes: npt.NDArray[np.uint64], limit: float
) -> float | None:
    """Return the share of the text's characters in repeated n-grams if above the limit.

    The scan goes from left to right and continues behind an n-gram that occurred before, so that
    no character counts twice. N-grams that begin within a repeated one are not remembered.

    Args:
        hashes: of the n-grams of the words, from `ngram_hashes`.
        limit: share of the text's characters.
    """
    ordered = np.sort(hashes)
    repeated = int(np.count_nonzero(ordered[1:] == ordered[:-1]))
    if repeated == 0:
        return None
    lengths = _ngram_lengths(words, n)
    # Counted n-grams do not overlap.
    counted = min(repeated, -(-len(words) // n))
    if counted * int(lengths.max()) / len(words.text) <= limit:
        return None
    # Only n-grams whose hash occurs twice can be repeated or be the first of a repetition.
    doubled = ordered[1:][ordered[1:] == ordered[:-1]]
    nearest = np.searchsorted(doubled, hashes).clip(max=len(doubled) - 1)
    places = np.flatnonzero(doubled[nearest] == hashes)
    joined = "".join(words.texts)
    starts = np.concatenate(([0], np.cumsum(words.lengths)))
    seen: set[str] = set()
    characters = following = 0
    for place, start, end in zip(
        places.tolist(), starts[places].tolist(), starts[places + n].tolist(), strict=True
    ):
        if place < following:
            continue
        ngram = joined[start:end]
        if ngram in seen:
            characters += end - start
            following = place + n
        else:
            seen.add(ngram)
    share = characters / len(words.text)
    return share if share > limit else None


def _ngram_lengths(words: Words, n: int) -> npt.NDArray[np.int64]:
    """Return the characters of each n-gram without spaces. [n-grams]"""
    ends = np.cumsum(words.lengths)
    lengths = ends[n - 1 :].copy()
    lengths[1:] -= ends[:-n]
    return lengths


def _longest_run(ordered: npt.NDArray[np.uint64]) -> int:
    """Return the length of the longest run of equal values."""
    ends = np.flatnonzero(ordered[1:] != ordered[:-1])
    return int(np.diff(ends, prepend=-1, append=len(ordered) - 1).max())
