"""MinHash signatures of texts, for near duplicates.

A text is the set of its n-grams of words (`ngrams`). A signature has a 32-bit minimum for each of
`bands` x `band_hashes` hash functions. Two texts of Jaccard similarity s agree in a minimum with
probability s, and in at least one whole band with 1 - (1 - s^band_hashes)^bands (Broder 1997;
Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, chapter 3). With the defaults, that is .56
at s = .7, .77 at .75, .92 at .8 and .999 at .9.

rensa computes the minima by fast similarity sketching (Dahlgaard, Knudsen, Thorup 2017) from the
64-bit hashes of the n-grams. Other versions of its algorithm than `ALGORITHM` are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import rensa

from training.corpus.document import CorpusError
from training.corpus.duplicates.ngrams import Hashes, mix, ngram_hashes, word_hashes

Signatures = npt.NDArray[np.uint32]

ALGORITHM = 2
MAX_HASHES = 1024
MAX_NGRAM = 64


@dataclass(frozen=True, slots=True)
class MinHashConfig:
    """Settings of signatures; the defaults are those of FineWeb (Penedo et al. 2024, appendix E).

    Attributes:
        ngram: words in an n-gram.
        bands: number of bands, called buckets by datatrove.
        band_hashes: minima in a band.
        seed: seed of the hash functions; signatures of different seeds must not be mixed.

    Raises:
        CorpusError: a value is outside its range.
    """

    ngram: int = 5
    bands: int = 14
    band_hashes: int = 8
    seed: int = 1

    def __post_init__(self) -> None:
        limits = {
            "ngram": MAX_NGRAM,
            "bands": MAX_HASHES,
            "band_hashes": MAX_HASHES // max(self.bands, 1),
        }
        for name, limit in limits.items():
            if not 1 <= (value := getattr(self, name)) <= limit:
                raise CorpusError(
                    f"duplicates.{name}: {value}, must be 1 to {limit}",
                    field=f"duplicates.{name}",
                    limit=f"1 to {limit}",
                )
        if rensa.RMinHash.ALGORITHM_VERSION != ALGORITHM:
            raise CorpusError(
                f"rensa: algorithm {rensa.RMinHash.ALGORITHM_VERSION}, expected {ALGORITHM}",
                field="rensa",
                limit=str(ALGORITHM),
            )

    @property
    def hashes(self) -> int:
        """Return the number of minima in a signature."""
        return self.bands * self.band_hashes


FINEWEB = MinHashConfig()


def shingles(text: str, size: int) -> Hashes:
    """Return the hashes of the n-grams of a text, in order; repeated n-grams occur repeatedly.

    A text of fewer than `size` words has a single n-gram of all its words; a text without words has
    the hash of its characters.
    """
    words_W = word_hashes(text)
    if not len(words_W):
        digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
        return np.frombuffer(digest, dtype="<u8").astype(np.uint64)
    return ngram_hashes(words_W, min(size, len(words_W)))


def signatures(text: str, config: MinHashConfig = FINEWEB) -> Signatures:
    """Return the signature of a text: [bands * band_hashes] minima."""
    row: Signatures = signature_matrix([text], config)[0]
    return row


def signature_matrix(texts: Sequence[str], config: MinHashConfig = FINEWEB) -> Signatures:
    """Return the signatures of several texts: [texts, bands * band_hashes] minima."""
    sets = [shingles(text, config.ngram) for text in texts]
    if not sets:
        return np.empty((0, config.hashes), dtype=np.uint32)
    offsets = np.zeros(len(sets) + 1, dtype=np.uint64)
    np.cumsum([len(hashes) for hashes in sets], out=offsets[1:])
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(
        np.concatenate(sets), offsets, config.hashes, config.seed
    )
    return np.array(matrix.to_rows(), dtype=np.uint32)


def band_keys(signatures_NH: Signatures, config: MinHashConfig = FINEWEB) -> Hashes:
    """Return a 64-bit hash of each band [N, bands]; the number of the band is part of it."""
    minima = signatures_NH.reshape(len(signatures_NH), config.bands, config.band_hashes)
    keys_NB: Hashes = np.broadcast_to(np.arange(config.bands, dtype=np.uint64), minima.shape[:2])
    for place in range(config.band_hashes):
        keys_NB = mix(keys_NB ^ minima[:, :, place].astype(np.uint64))
    return keys_NB


def estimated_similarity(first_NH: Signatures, second_NH: Signatures) -> npt.NDArray[np.float64]:
    """Return the estimated Jaccard similarity of pairs of texts [N]: the share of equal minima.

    The standard error is at most sqrt(s (1 - s) / hashes), .04 at s = .75 with the defaults.
    """
    shares_N: npt.NDArray[np.float64] = (first_NH == second_NH).mean(axis=1)
    return shares_N


def jaccard(first: str, second: str, ngram: int = FINEWEB.ngram) -> float:
    """Return the exact Jaccard similarity of the n-grams of two texts."""
    left, right = np.unique(shingles(first, ngram)), np.unique(shingles(second, ngram))
    common = len(np.intersect1d(left, right, assume_unique=True))
    return common / (len(left) + len(right) - common)
