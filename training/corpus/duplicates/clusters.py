"""Global search for exact and near duplicates over the rows of all documents, out of core.

1. Sort the documents by order key and id. The place in this order identifies a document from
   here on, so the result does not depend on the order of the input.
2. Sort (digest, place). Of equal digests the lowest place is kept; the others are exact duplicates.
3. Sort (band key, place) of the remaining documents. Of those with equal band keys, each is a
   candidate with the first and with the one before it.
4. Join candidates with union-find, if wanted only those whose signatures are similar enough. Of
   each cluster the lowest place is kept.

Sorts use `memory_bytes`; beside them, places and ids need 32 bytes a document.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from training.corpus.document import CorpusError, Stage
from training.corpus.duplicates.external_sort import ExternalSort
from training.corpus.duplicates.minhash import (
    FINEWEB,
    MinHashConfig,
    band_keys,
    estimated_similarity,
)
from training.corpus.duplicates.rows import Row, read_rows, read_signatures, write_rows

Places = npt.NDArray[np.uint32]

MEMORY_BYTES = 256 * 2**20
MIN_MEMORY_BYTES = 2**20
MAX_DOCUMENTS = 2**32 - 1
ID_BYTES = 16
# Signatures of compared pairs need at most two pages of memory each, 130 MB in all.
COMPARED_PAIRS = 16_384


class Duplicate(NamedTuple):
    """A document to drop.

    Attributes:
        stage: EXACT_DUPLICATE or NEAR_DUPLICATE.
        kept: id of the document for which it is dropped. That of an exact duplicate may itself be
            a near duplicate of another document.
        number: place of the document in the input, from 0. Records with equal ids are told apart
            by it.
    """

    id: str
    stage: Stage
    kept: str
    number: int


def find_duplicates(
    rows: Iterable[Row],
    folder: Path,
    memory_bytes: int = MEMORY_BYTES,
    config: MinHashConfig = FINEWEB,
    least_similarity: float = 0.0,
) -> Iterator[Duplicate]:
    """Yield the duplicates among documents, in the order of the kept rule.

    The result, except for `number`, depends on the set of rows alone: neither on their order nor on
    `memory_bytes`.

    Args:
        folder: for temporary files: about 500 bytes a document for the rows, and as many for sorts.
        least_similarity: candidates are joined if their signatures agree in this share of minima,
            an estimate of the Jaccard similarity. 0 joins all candidates, as FineWeb does.

    Raises:
        CorpusError: a row has another form, or `memory_bytes` or `least_similarity` is out of
            range.
    """
    work = folder / "rows.partial"
    shutil.rmtree(work, ignore_errors=True)  # of an interrupted search
    work.mkdir(parents=True)
    write_rows(work / "rows", rows, config)
    yield from find_duplicates_in([work / "rows"], folder, memory_bytes, config, least_similarity)
    shutil.rmtree(work)


def find_duplicates_in(
    files: Sequence[Path],
    folder: Path,
    memory_bytes: int = MEMORY_BYTES,
    config: MinHashConfig = FINEWEB,
    least_similarity: float = 0.0,
) -> Iterator[Duplicate]:
    """Yield the duplicates among the rows of files from `write_rows`; see `find_duplicates`."""
    for name, value, valid, limit in (
        (
            "memory_bytes",
            memory_bytes,
            memory_bytes >= MIN_MEMORY_BYTES,
            f"at least {MIN_MEMORY_BYTES}",
        ),
        ("least_similarity", least_similarity, 0 <= least_similarity <= 1, "0 to 1"),
    ):
        if not valid:
            raise CorpusError(
                f"duplicates.{name}: {value}, must be {limit}",
                field=f"duplicates.{name}",
                limit=limit,
            )
    work = folder / "sorts.partial"
    shutil.rmtree(work, ignore_errors=True)  # of an interrupted search
    work.mkdir(parents=True)
    places = _places(files, work, memory_bytes, config)
    exact = _exact_duplicates(files, places, work, memory_bytes, config)
    numbers = np.empty_like(places)
    numbers[places] = np.arange(len(places), dtype=np.uint32)
    near = _near_duplicates(
        files, places, numbers, exact, work, memory_bytes, config, least_similarity
    )
    del places
    ids = np.fromfile(work / "ids", dtype=f"V{ID_BYTES}")
    shutil.rmtree(work)
    same = np.arange(len(exact), dtype=np.uint32)
    for place in np.flatnonzero((exact != same) | (near != same)):
        is_exact = exact[place] != place
        stage = Stage.EXACT_DUPLICATE if is_exact else Stage.NEAR_DUPLICATE
        kept = exact[place] if is_exact else near[place]
        yield Duplicate(
            ids[place].tobytes().hex(), stage, ids[kept].tobytes().hex(), int(numbers[place])
        )


def _places(files: Sequence[Path], work: Path, memory_bytes: int, config: MinHashConfig) -> Places:
    """Return the place of each document, in the order of the input; write the ids by place.

    Raises:
        CorpusError: there are too many documents.
    """
    dtype = [("order", "<u8"), ("high", "<u8"), ("low", "<u8"), ("number", "<u4")]
    sort = ExternalSort(dtype, work / "order", memory_bytes)
    count = 0
    for batch in read_rows(files, config):
        if count + len(batch) > MAX_DOCUMENTS:
            raise CorpusError(
                f"more than {MAX_DOCUMENTS} documents",
                field="documents",
                limit=str(MAX_DOCUMENTS),
            )
        numbers = np.arange(count, count + len(batch), dtype=np.uint32)
        sort.add(batch["order"], batch["id_high"], batch["id_low"], numbers)
        count += len(batch)
    places = np.empty(count, dtype=np.uint32)
    first = 0
    with (work / "ids").open("wb") as file:
        for batch in sort.batches():
            ids = np.stack([batch["high"], batch["low"]], axis=1).astype(">u8")  # as bytes, the id
            ids.tofile(file)
            places[batch["number"]] = np.arange(first, first + len(batch), dtype=np.uint32)
            first += len(batch)
    return places


def _exact_duplicates(
    files: Sequence[Path], places: Places, work: Path, memory_bytes: int, config: MinHashConfig
) -> Places:
    """Return for each place the lowest place with the same digest."""
    sort = ExternalSort(
        [("high", "<u8"), ("low", "<u8"), ("place", "<u4")], work / "digests", memory_bytes
    )
    first = 0
    for batch in read_rows(files, config):
        sort.add(batch["digest_high"], batch["digest_low"], places[first : first + len(batch)])
        first += len(batch)
    kept = np.arange(len(places), dtype=np.uint32)
    for batch in sort.batches():
        kept[batch["place"]] = _leaders(batch["place"], batch["high"], batch["low"])
    return kept


def _near_duplicates(
    files: Sequence[Path],
    places: Places,
    numbers: Places,
    exact: Places,
    work: Path,
    memory_bytes: int,
    config: MinHashConfig,
    least_similarity: float,
) -> Places:
    """Return for each place the lowest place of its cluster."""
    sort = ExternalSort([("key", "<u8"), ("place", "<u4")], work / "bands", memory_bytes)
    first = 0
    for batch in read_rows(files, config):
        own = places[first : first + len(batch)]
        first += len(batch)
        distinct = exact[own] == own
        keys = band_keys(batch["signature"][distinct], config)
        sort.add(keys.ravel(), np.repeat(own[distinct], config.bands))
    parents = np.arange(len(places), dtype=np.uint32)
    for batch in sort.batches():
        leaders = _leaders(batch["place"], batch["key"])
        linked = np.flatnonzero(leaders != batch["place"])
        members = batch["place"][linked]
        if not least_similarity:
            _join(parents, leaders[linked], members)
            continue
        for others in (leaders[linked], batch["place"][linked - 1]):
            for start in range(0, len(members), COMPARED_PAIRS):
                one, other = (each[start : start + COMPARED_PAIRS] for each in (others, members))
                apart = _roots(parents, one) != _roots(parents, other)
                one, other = one[apart], other[apart]
                similar = (
                    estimated_similarity(
                        read_signatures(files, numbers[one], config),
                        read_signatures(files, numbers[other], config),
                    )
                    >= least_similarity
                )
                _join(parents, one[similar], other[similar])
    # A parent is never above its child, so one pass upwards by jumps ends at the roots.
    while (jumped := parents[parents] != parents).any():
        parents[jumped] = parents[parents[jumped]]
    return parents


def _leaders(places: Places, *keys: npt.NDArray[np.uint64]) -> Places:
    """Return the first place among those with equal keys, for sorted keys and places."""
    begins = np.ones(len(places), dtype=bool)
    begins[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(begins)
    return np.repeat(places[starts], np.diff(starts, append=len(places)))


def _join(parents: Places, first: Places, second: Places) -> None:
    """Join the clusters of pairs of places; the root of a cluster is its lowest place."""
    while len(first):
        first, second = _roots(parents, first), _roots(parents, second)
        apart = first != second
        first, second = first[apart], second[apart]
        low, high = np.minimum(first, second), np.maximum(first, second)
        # Of several new parents of a root the lowest wins; the next round joins the others.
        np.minimum.at(parents, high, low)


def _roots(parents: Places, places: Places) -> Places:
    """Return the roots of places, and shorten the paths to them."""
    start = places
    while len(places):
        above = parents[places]
        if (above == places).all():
            break
        places = above
    parents[start] = places
    return places
